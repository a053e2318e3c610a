import neoq
from neoq.testing import BackendConformance


class Distant(neoq.MemBackend):
    features = frozenset()


class TestDistant(BackendConformance):
    def make_backend(self, **options):
        return Distant(**options)
