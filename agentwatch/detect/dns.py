def parse(data):
    return None
