"""qaicl.wire"""
