"""The oracle's reading of headlines. The entry is `qaicl.oracle.sentiment.service.assess`."""
