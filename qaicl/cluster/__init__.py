"""qaicl.cluster"""
