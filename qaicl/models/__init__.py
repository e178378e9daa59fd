"""qaicl.models"""
