-- One request. KEYS: request, tokens.
return {'loaded', read(KEYS[1], KEYS[2])}
