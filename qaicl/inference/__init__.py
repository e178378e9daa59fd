"""qaicl.inference"""
