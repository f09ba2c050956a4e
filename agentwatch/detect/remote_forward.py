class RemoteForward:
    def exec(self, *a, **k):
        return []

    def wanted_config(self, *a):
        return None

    def config(self, *a):
        return []

    def banner(self, *a):
        return []

    def connect(self, *a, **k):
        return []

    def payload(self, *a, **k):
        return []

    def exit(self, *a):
        return None
