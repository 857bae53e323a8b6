"""Weights in Blender: what is missing is told before anything is rendered, comes when asked for, and can be managed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import bpy
import pytest
from retake_shared import connection
from retake_shared.client import Client
from retake_shared.errors import RetakeError

from blender_addon import linked, models, rendering, take_requests

from .test_panels import drawn

REPOSITORY = Path(__file__).resolve().parents[3]
PIECES = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
SERVED = """
import sys
from pathlib import Path
from tests.backend.weights.conftest import SVD, T2V, VACE, svd, wan, write_folder
write_folder(wan("WanPipeline", "WanTransformer3DModel", 10), Path(sys.argv[1]) / "t2v")
write_folder(wan("WanVACEPipeline", "WanVACETransformer3DModel", 30), Path(sys.argv[1]) / "vace")
"""
VACE = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"


def _module(path: str):
    spec = importlib.util.spec_from_file_location("local_hub", REPOSITORY / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["local_hub"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def repositories(backend_python, tmp_path_factory):
    """A folder with the files of two repositories, as the hub has them."""
    folder = tmp_path_factory.mktemp("repositories")
    subprocess.run([backend_python, "-c", SERVED, str(folder)], check=True, cwd=REPOSITORY, timeout=120)
    return folder


@pytest.fixture(scope="module")
def hub(repositories):
    """A hub on this machine."""
    local_hub = _module("tests/backend/weights/local_hub.py")
    read = {
        name: {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for name, folder in ((PIECES, repositories / "t2v"), (VACE, repositories / "vace"))
    }
    made = {
        name: local_hub.Repository(files, commit=str(number) * 40)
        for number, (name, files) in enumerate(read.items(), 1)
    }
    served = local_hub.LocalHub(made)
    yield served
    served.close()


@pytest.fixture(scope="module")
def weights_home(backend_python, hub, tmp_path_factory):
    """A backend without any weights, which gets them from the hub on this machine."""
    folder = tmp_path_factory.mktemp("weights")
    before = dict(os.environ)
    os.environ |= {
        "RETAKE_BACKEND": backend_python,
        "RETAKE_HOME": str(folder / "home"),
        "RETAKE_ENGINES": "trial_engines:Trial",
        "PYTHONPATH": str(REPOSITORY / "tests/backend/broker"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(folder / "hf"),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    for name in ("RETAKE_MODELS", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)
    yield folder / "home"
    with contextlib.suppress(RetakeError), Client.connect(folder / "home" / connection.FILE_NAME) as client:
        client.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def backend(weights_home, shot):
    """(root, folder of the models), the backend running and its models known; Blender may go online."""
    rendering.unregister()
    rendering.register()
    system = bpy.context.preferences.system
    online, system.use_online_access = bpy.app.online_access, True
    assert bpy.ops.retake.start_backend() == {"FINISHED"}
    pump_until(lambda: models.every() and linked.backend().info.engines)
    yield shot[0], weights_home / "models"
    for model in models.every():
        if model.task:
            bpy.ops.retake.stop_model(model=model.name)
    pump_until(lambda: not any(model.task for model in models.every()))
    system.use_online_access = online
    shutil.rmtree(weights_home / "models", ignore_errors=True)
    rendering.unregister()
    rendering.register()


def pump_until(test, limit=60.0):
    deadline = time.monotonic() + limit
    while not test():
        assert time.monotonic() < deadline, f"waited too long; {models.every()}"
        rendering.pump(0.05)
        time.sleep(0.01)


def idle(name):
    """Whether the backend has ended what it was asked to do with the model."""
    return lambda: not models.find(name).task


def pull(name):
    assert bpy.ops.retake.pull_model(model=name) == {"FINISHED"}
    pump_until(idle(name))


def test_what_is_missing_is_told_with_size_licence_and_a_button_before_anything_is_rendered(backend):
    root, place = backend
    assert Path(models.place) == place
    root.retake.engine = "vace"
    assert not bpy.ops.retake.generate.poll()
    assert "VACE lacks Wan 2.1 VACE 1.3B (19.0 GB)" in take_requests.lacking(root)
    texts = drawn()
    for text in ("Wan 2.1 VACE 1.3B", "19.0 GB", "Apache-2.0", "Get", "Import…"):
        assert text in texts, text
    root.retake.engine = "preview"
    assert bpy.ops.retake.generate.poll()
    assert "Get" not in drawn()


def test_another_base_lacks_other_weights(backend):
    root, _ = backend
    root.retake.engine = "trajectory-attention"
    assert {m.name for m in models.missing("trajectory-attention", {})} == {"wan2.1-t2v-1.3b", "trajectory-attention"}
    root.retake.options.base = "svd"
    assert "Stable Video Diffusion XT" in take_requests.lacking(root)
    assert "Wan" not in take_requests.lacking(root)
    assert any("Nobody has published" in text for text in drawn())


def test_few_steps_ask_for_the_weights_that_are_made_for_them(backend):
    root, _ = backend
    root.retake.engine = "track2view"
    assert "FastWan 2.1 1.3B" not in drawn()
    root.retake.options.quality = "fast"
    assert "FastWan 2.1 1.3B" in drawn()
    root.retake.engine, root.retake.options.base = "trajectory-attention", "svd"
    assert "FastWan 2.1 1.3B" not in drawn()
    root.retake.engine = "vace"
    assert "FastWan 2.1 1.3B" not in drawn()


def test_get_brings_the_weights_and_generate_comes_alive(backend, hub):
    root, place = backend
    root.retake.engine = "vace"
    hub.delay = 0.01
    seen = []
    assert bpy.ops.retake.pull_model(model="wan2.1-vace-1.3b") == {"FINISHED"}

    def here():
        model = models.find("wan2.1-vace-1.3b")
        if model.task and model.total:
            seen.append((model.done, model.total))
            drawn()
        return not model.task

    pump_until(here)
    hub.delay = 0.0
    assert models.find("wan2.1-vace-1.3b").state == "installed", models.find("wan2.1-vace-1.3b").error
    assert seen[0][0] < seen[-1][0] <= seen[-1][1] > 5_000_000
    assert (place / "wan2.1-vace-1.3b" / "model_index.json").is_file()
    assert take_requests.lacking(root) == ""
    assert bpy.ops.retake.generate.poll()
    pump_until(lambda: next(e for e in linked.backend().info.engines if e["name"] == "vace")["ready"])


def test_a_download_can_be_stopped_and_gone_on_with(backend, hub):
    name = "wan2.1-vace-1.3b"
    hub.delay = 0.05
    bpy.ops.retake.pull_model(model=name)
    pump_until(lambda: models.find(name).done > 1_000_000)
    assert bpy.ops.retake.stop_model(model=name) == {"FINISHED"}
    pump_until(idle(name))
    hub.delay = 0.0
    assert models.find(name).state == "partial"
    backend[0].retake.engine = "vace"
    assert "Get the Rest" in drawn()
    pull(name)
    assert models.find(name).state == "installed"


def test_a_hub_that_fails_is_told_at_the_model(backend, hub):
    name = "wan2.1-vace-1.3b"
    file = next(path for path in hub.repositories[VACE].files if path.endswith("00002-of-00002.safetensors"))
    hub.altered.add(file)
    pull(name)
    hub.altered.clear()
    model = models.find(name)
    assert model.state != "installed"
    assert model.error["what"]
    backend[0].retake.engine = "vace"
    told = " ".join(drawn())
    assert model.error["what"].split()[0].lower() in told.lower()


def test_nothing_is_downloaded_while_blender_is_offline(backend):
    bpy.context.preferences.system.use_online_access = False
    assert not bpy.ops.retake.pull_model.poll()
    backend[0].retake.engine = "vace"
    assert any("Online Access" in text for text in drawn())


def test_a_model_is_imported_verified_and_removed(backend, repositories, weights_home):
    name = "wan2.1-t2v-1.3b"
    assert bpy.ops.retake.import_model(model=name, directory=str(repositories / "t2v")) == {"FINISHED"}
    pump_until(lambda: models.find(name).state == "installed")
    weights = weights_home / "models" / name / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    assert bpy.ops.retake.verify_model(model=name) == {"FINISHED"}
    pump_until(idle(name))
    assert models.find(name).state == "installed"
    content[-1] ^= 1
    weights.write_bytes(content)
    bpy.ops.retake.verify_model(model=name)
    pump_until(lambda: not models.find(name).task and models.find(name).state == "damaged")
    assert bpy.ops.retake.remove_model(model=name) == {"FINISHED"}
    pump_until(lambda: not models.find(name).task and models.find(name).state == "missing")
    assert not weights.exists()


def test_a_draft_model_is_imported_and_the_one_of_the_backend_comes_back(backend, backend_python, tmp_path):
    """What `retake fit` left in its folder, as its last words say."""
    code = "import sys; from pathlib import Path; from retake_backend.models.random_weights import write_random\n"
    code += "write_random('draft', Path(sys.argv[1]) / 'result')"
    subprocess.run([backend_python, "-c", code, str(tmp_path)], check=True, timeout=120)
    (tmp_path / "result" / "retake_model.json").unlink()
    root, place = backend
    root.retake.engine = "draft"
    assert models.find("draft").shipped
    assert bpy.ops.retake.import_model(model="draft", directory=str(tmp_path / "result")) == {"FINISHED"}
    pump_until(lambda: not models.find("draft").shipped)
    assert models.find("draft").state == "installed"
    assert (place / "draft" / "config.json").is_file()
    assert take_requests.lacking(root) == ""
    assert bpy.ops.retake.remove_model(model="draft") == {"FINISHED"}
    pump_until(lambda: models.find("draft").shipped)
    assert not (place / "draft").exists()


def test_a_folder_that_is_no_model_is_refused_in_words(backend, tmp_path):
    with pytest.raises(RuntimeError, match=str(tmp_path)):
        bpy.ops.retake.import_model(model="wan2.1-t2v-1.3b", directory=str(tmp_path))
    backend[0].retake.engine = "track2view"
    assert any(str(tmp_path)[:12] in text for text in drawn())
    with pytest.raises(RuntimeError, match="no folder"):
        bpy.ops.retake.import_model(model="wan2.1-t2v-1.3b", directory="/nowhere")


def test_another_ones_backend_takes_no_folder_from_here(backend, tmp_path):
    from blender_addon import preferences

    page = preferences.preferences(bpy.context)
    page.place, page.connection_file = "RUNNING", str(tmp_path / "connection.json")
    try:
        assert not bpy.ops.retake.import_model.poll()
        assert not bpy.ops.retake.save_first_frame.poll()
    finally:
        for name in ("place", "connection_file"):
            page.property_unset(name)


def test_memory_is_freed_between_takes_and_it_says_so(backend):
    assert bpy.ops.retake.free_memory() == {"FINISHED"}
    assert "No model is held in memory" in bpy.context.window_manager.retake.backend_message


def test_nothing_is_known_of_weights_without_a_backend(backend):
    root, _ = backend
    root.retake.engine = "vace"
    assert bpy.ops.retake.stop_backend() == {"FINISHED"}
    assert models.missing("vace", {}) is None
    assert bpy.ops.retake.generate.poll()
    assert any("Start the backend" in text for text in drawn())
    assert not bpy.ops.retake.free_memory.poll()
    assert not bpy.ops.retake.pull_model.poll()


def test_the_preferences_list_every_model(backend):
    from blender_addon import drawing

    from .test_panels import Layout

    texts = []
    drawing.draw_models(Layout(texts), bpy.context)
    assert len(models.every()) >= 8
    for model in models.every():
        assert model.label in texts
    assert f"In {models.place}" in texts
    assert "Not here, 19.0 GB" in texts
