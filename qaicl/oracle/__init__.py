"""qaicl.oracle"""
