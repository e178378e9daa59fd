"""qaicl.provision"""
