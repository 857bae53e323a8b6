"""A second take finds its model loaded; freeing the GPU's memory frees it."""

import gc
import threading
import weakref

import pytest
from retake_backend.models import resident
from torch import nn


@pytest.fixture(autouse=True)
def _nothing_kept():
    resident.release()
    yield
    resident.release()


def load_one(loaded: list[weakref.ref]):
    def load() -> nn.Module:
        module = nn.Linear(64, 64)
        loaded.append(weakref.ref(module))
        return module

    return load


def test_the_second_take_does_not_load_again():
    loaded: list[weakref.ref] = []
    first = resident.keep(("wan", "24"), load_one(loaded))
    assert resident.keep(("wan", "24"), load_one(loaded)) is first
    assert len(loaded) == 1
    assert resident.kept() == (("wan", "24"),)


def test_another_model_takes_the_place_of_the_first_before_it_loads():
    loaded: list[weakref.ref] = []
    resident.keep("wan", load_one(loaded))

    def load() -> nn.Module:
        assert loaded[0]() is None, "two models lay in memory together"
        return nn.Linear(64, 64)

    resident.keep("vace", load)
    assert resident.kept() == ("vace",)


def test_slots_stand_beside_each_other_and_release_empties_all():
    loaded: list[weakref.ref] = []
    resident.keep("wan", load_one(loaded))
    resident.keep("umt5", load_one(loaded), slot="text")
    assert all(reference() is not None for reference in loaded)
    assert resident.release()
    assert [reference() for reference in loaded] == [None, None]
    assert not resident.release()


def test_a_model_that_does_not_load_leaves_nothing():
    loaded: list[weakref.ref] = []
    resident.keep("wan", load_one(loaded))
    with pytest.raises(OSError, match="damaged"):
        resident.keep("vace", lambda: (_ for _ in ()).throw(OSError("damaged")))
    assert resident.kept() == ()
    gc.collect()
    assert loaded[0]() is None


def test_freeing_answers_at_once_and_what_was_loading_is_not_kept():
    loading, go_on = threading.Event(), threading.Event()
    results: list[str] = []

    def slow() -> str:
        loading.set()
        assert go_on.wait(10)
        return "model"

    thread = threading.Thread(target=lambda: results.append(resident.keep("wan", slow)))
    thread.start()
    assert loading.wait(10)
    assert not resident.release()  # would hang here if it waited for the load
    go_on.set()
    thread.join(10)
    assert results == ["model"]
    assert resident.kept() == ()
