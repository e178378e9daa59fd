"""qaicl.cli"""
