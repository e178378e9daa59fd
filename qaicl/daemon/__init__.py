"""qaicl.daemon"""
