"""Volumes on a real disk and real mounts, below a temporary kubelet root."""

import asyncio
import base64
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k3sd.kubelet.sources import Sources
from k3sd.kubelet.tokens import TokenManager
from k3sd.kubelet.volumes import atomic_writer, ownership, subpath
from k3sd.kubelet.volumes.atomic_writer import FileProjection, PayloadError
from k3sd.kubelet.volumes.manager import VolumeManager
from k3sd.kubelet.volumes.plan import HostPath, VolumeError
from k3sd.lib import mounts
from tests.support.fakeclient import FakeClient, settle

Obj = dict[str, Any]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    mounts.unmount_below(os.path.realpath(tmp_path))


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


# -- atomic writer


def projections(**files: str) -> dict[str, FileProjection]:
    return {name.replace("__", "/"): FileProjection(text.encode(), 0o644) for name, text in files.items()}


def test_files_appear_behind_the_data_link(tmp_path: Path) -> None:
    assert atomic_writer.write(tmp_path, {"a": FileProjection(b"1", 0o400), "dir/b": FileProjection(b"2", 0o777)})
    assert os.readlink(tmp_path / "a") == "..data/a" and os.readlink(tmp_path / "dir") == "..data/dir"
    assert (tmp_path / "a").read_bytes() == b"1" and mode(tmp_path / "a") == 0o400 and mode(tmp_path / "dir/b") == 0o777
    assert mode(os.path.realpath(tmp_path / "..data")) == 0o755


def test_no_change_is_no_write_and_a_change_swaps_once(tmp_path: Path) -> None:
    atomic_writer.write(tmp_path, projections(a="1", b="2", dir__c="3"))
    first = os.readlink(tmp_path / "..data")
    assert not atomic_writer.write(tmp_path, projections(a="1", b="2", dir__c="3"))
    assert os.readlink(tmp_path / "..data") == first
    assert atomic_writer.write(tmp_path, projections(a="new", dir__d="4"))
    assert sorted(os.listdir(tmp_path)) == sorted([os.readlink(tmp_path / "..data"), "..data", "a", "dir"])
    assert (tmp_path / "a").read_text() == "new" and os.listdir(tmp_path / "dir") == ["d"]


def test_emptied_payload_leaves_nothing_visible(tmp_path: Path) -> None:
    atomic_writer.write(tmp_path, projections(a="1"))
    assert atomic_writer.write(tmp_path, {})
    assert [n for n in os.listdir(tmp_path) if not n.startswith("..")] == []


def test_leftovers_of_a_crash_are_repaired(tmp_path: Path) -> None:
    atomic_writer.write(tmp_path, projections(a="1"))
    (tmp_path / "..2020_01_01_00_00_00.abc").mkdir()
    os.symlink("..2020_01_01_00_00_00.abc", tmp_path / "..data_tmp")
    os.symlink("..data/gone", tmp_path / "gone")
    assert atomic_writer.write(tmp_path, projections(a="1"))
    assert len(os.listdir(tmp_path)) == 3 and (tmp_path / "a").read_text() == "1"


def test_a_reader_never_sees_a_mixture(tmp_path: Path) -> None:
    atomic_writer.write(tmp_path, projections(a="1", b="1"))
    held = os.open(tmp_path / "..data", os.O_RDONLY | os.O_DIRECTORY)
    atomic_writer.write(tmp_path, projections(a="2", b="2"), lambda _: _assert_old(tmp_path))
    os.close(held)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "2"


@needs_root
def test_a_full_disk_keeps_the_old_files(root: Path) -> None:
    volume = root / "v"
    volume.mkdir()
    mounts.mount_tmpfs(str(volume), 64 * 1024)
    atomic_writer.write(volume, projections(a="old", b="old"))
    names = sorted(os.listdir(volume))
    with pytest.raises(OSError, match="No space left"):
        atomic_writer.write(volume, projections(a="new", b="x" * 100_000))
    assert sorted(os.listdir(volume)) == names and (volume / "a").read_text() == (volume / "b").read_text() == "old"
    assert atomic_writer.write(volume, projections(a="new", b="new"))


def _assert_old(target: Path) -> None:
    assert (target / "a").read_text() == (target / "b").read_text() == "1"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "must not be empty"),
        ("/etc/passwd", "must be relative path: /etc/passwd"),
        ("../x", "must not contain '..': ../x"),
        ("a/../b", "must not contain '..': a/../b"),
        ("..x", "must not start with '..': ..x"),
        ("a" * 256, "filenames must be less than or equal to 255 characters"),
        ("a/" * 2100, "must be less than or equal to 4096 characters"),
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(PayloadError, match=message.replace(".", r"\.")):
        atomic_writer.write(tmp_path, {path: FileProjection(b"", 0o644)})
    assert os.listdir(tmp_path) == []


# -- ownership


@needs_root
def test_fs_group(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d/f").write_text("x")
    os.chmod(tmp_path / "d/f", 0o600)
    os.symlink("/etc/hostname", tmp_path / "link")
    before = os.stat("/etc/hostname")
    ownership.apply_fs_group(str(tmp_path), 1234)
    assert [os.lstat(tmp_path / n).st_gid for n in (".", "d", "d/f", "link")] == [1234] * 4
    assert mode(tmp_path / "d") == 0o2770 and mode(tmp_path / "d/f") == 0o660
    assert os.stat("/etc/hostname").st_gid == before.st_gid
    os.chown(tmp_path / "d/f", 0, 0)
    ownership.apply_fs_group(str(tmp_path), 1234, on_root_mismatch=True)
    assert os.stat(tmp_path / "d/f").st_gid == 0
    ownership.apply_fs_group(str(tmp_path), 1234, read_only=True)
    assert os.stat(tmp_path / "d/f").st_gid == 1234


# -- subPath


@pytest.fixture
def volume(root: Path) -> Path:
    (root / "secret").write_text("host secret")
    (root / "volume/dir/sub").mkdir(parents=True)
    (root / "volume/dir/file").write_text("inside")
    return root / "volume"


def open_text(volume: Path, path: str) -> str:
    descriptor = subpath.open_beneath(str(volume), path)
    try:
        return Path(f"/proc/self/fd/{descriptor}").read_text()
    finally:
        os.close(descriptor)


def test_subpath_follows_links_inside(volume: Path) -> None:
    os.symlink("dir/file", volume / "one")
    os.symlink("../dir/./sub/../file", volume / "dir/two")
    assert open_text(volume, "dir/file") == open_text(volume, "one") == open_text(volume, "dir//two") == "inside"


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("/etc", "l/passwd"),
        ("../secret", "l"),
        ("dir/../../secret", "l"),
        ("..", "l/secret"),
        ("dir/../..", "l/secret"),
        ("l", "l/x"),
    ],
)
def test_subpath_attacks(volume: Path, link: str, path: str) -> None:
    os.symlink(link, volume / "l")
    with pytest.raises(subpath.SubPathError):
        subpath.open_beneath(str(volume), path, create_mode=0o777)
    assert sorted(os.listdir(volume)) == ["dir", "l"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/abs", "error SubPath `/abs` must not be an absolute path"),
        ("a/../../b", "unable to provision SubPath `a/../../b`: must not contain '..'"),
    ],
)
def test_subpath_texts(path: str, message: str) -> None:
    with pytest.raises(subpath.SubPathError) as caught:
        subpath.check(path)
    assert str(caught.value) == message


def test_a_component_swapped_for_a_link_after_the_walk_changes_nothing(volume: Path) -> None:
    descriptor = subpath.open_beneath(str(volume), "dir/file")
    os.rename(volume / "dir", volume / "was")
    os.symlink("/etc", volume / "dir")
    assert Path(f"/proc/self/fd/{descriptor}").read_text() == "inside"
    os.close(descriptor)


def test_no_descriptor_is_left_open(volume: Path) -> None:
    os.symlink("/etc", volume / "l")
    before = len(os.listdir("/proc/self/fd"))
    os.close(subpath.open_beneath(str(volume), "dir/sub"))
    with pytest.raises(subpath.SubPathError):
        subpath.open_beneath(str(volume), "l/x")
    with pytest.raises(FileNotFoundError):
        subpath.open_beneath(str(volume), "dir/none/x")
    assert len(os.listdir("/proc/self/fd")) == before


@needs_root
def test_subpath_is_bound_and_made_with_the_volumes_mode(root: Path, volume: Path) -> None:
    os.chmod(volume, 0o2777)
    os.chown(volume, -1, 777)
    os.chmod(volume, 0o2777)
    path = subpath.bind_sub_path(root / "pod", "v", str(volume), "new/deep", "c", 0)
    assert path == str(root / "pod/volume-subpaths/v/c/0") and mounts.is_mount_point(os.path.realpath(path))
    (Path(path) / "x").write_text("1")
    assert (volume / "new/deep/x").read_text() == "1"
    assert mode(volume / "new") == 0o2777 and os.stat(volume / "new").st_gid == 777
    # A restart binds the same place anew, even to a file now.
    again = subpath.bind_sub_path(root / "pod", "v", str(volume), "dir/file", "c", 0)
    assert again == path and Path(again).read_text() == "inside"
    assert mounts.mount_points(os.path.realpath(path)) == [os.path.realpath(path)]


# -- removing


@needs_root
def test_remove_tree_unmounts_and_never_deletes_through_a_mount(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data/keep").write_text("x")
    (root / "pod/bound").mkdir(parents=True)
    (root / "pod/tmp").mkdir()
    mounts.bind(str(root / "data"), str(root / "pod/bound"))
    mounts.mount_tmpfs(str(root / "pod/tmp"), 1 << 20)
    mounts.mount_tmpfs(str(root / "pod/tmp"), 1 << 20)
    os.symlink(root / "data", root / "pod/link")
    mounts.remove_tree(root / "pod")
    assert not (root / "pod").exists() and (root / "data/keep").read_text() == "x"
    mounts.remove_tree(root / "pod")


@needs_root
def test_unusual_names_in_the_mount_table(root: Path) -> None:
    target = root / "with space\\and\ttab"
    target.mkdir()
    mounts.mount_tmpfs(str(target))
    assert mounts.is_mount_point(os.path.realpath(target))
    mounts.unmount_below(os.path.realpath(root))
    assert not mounts.mount_points(os.path.realpath(root))


# -- hostPath


@pytest.mark.parametrize(
    ("type_", "name", "message"),
    [
        ("Directory", "file", "hostPath type check failed: {} is not a directory"),
        ("Directory", "none", "hostPath type check failed: {} is not a directory"),
        ("File", "dir", "hostPath type check failed: {} is not a file"),
        ("FileOrCreate", "dir", "hostPath type check failed: {} is not a file"),
        ("Socket", "file", "hostPath type check failed: {} is not a socket file"),
        ("CharDevice", "file", "hostPath type check failed: {} is not a character device"),
        ("BlockDevice", "file", "hostPath type check failed: {} is not a block device"),
    ],
)
def test_host_path_checks(tmp_path: Path, type_: str, name: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dir").mkdir()
    with pytest.raises(VolumeError) as caught:
        HostPath(str(tmp_path / name), type_).set_up()
    assert str(caught.value) == message.format(tmp_path / name)


def test_host_path_is_made_where_asked(tmp_path: Path) -> None:
    HostPath(str(tmp_path / "a/b"), "DirectoryOrCreate").set_up()
    HostPath(str(tmp_path / "f"), "FileOrCreate").set_up()
    assert mode(tmp_path / "a/b") == 0o755 and (tmp_path / "f").read_text() == ""
    assert HostPath(str(tmp_path / "anything")).set_up() == str(tmp_path / "anything")


# -- manager


class Rig:
    def __init__(self, root: Path) -> None:
        self.client = FakeClient()
        self.sources = Sources(self.client)  # type: ignore[arg-type]
        self.tokens = TokenManager(self.client, now=lambda: self.client.now)  # type: ignore[arg-type]
        self.root = root
        self.manager = VolumeManager(
            self.client,  # type: ignore[arg-type]
            self.sources,
            "n1",
            root,
            self.tokens,
            node_allocatable=lambda: {"cpu": "4", "memory": "8Gi"},
        )

    async def refreshed(self) -> None:
        """Wait until every rewrite that events have set off is done."""
        await settle()
        while tasks := [s.refresh for s in self.manager._pods.values() if s.refresh]:
            await asyncio.gather(*tasks)


@pytest.fixture
async def rig(root: Path) -> AsyncIterator[Rig]:
    rig = Rig(root)
    yield rig
    await rig.manager.stop()
    await rig.sources.stop()
    rig.tokens.stop()


def pod(*volumes: Obj, uid: str = "u1", mount: Callable[[Obj], Obj] = lambda v: {}, **spec: Any) -> Obj:
    container = {
        "name": "c",
        "volumeMounts": [{"name": v["name"], "mountPath": f"/mnt/{v['name']}", **mount(v)} for v in volumes],
        "resources": {"limits": {"memory": "64Mi"}},
    }
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": uid, "labels": {"a": "1"}, "annotations": {}},
        "spec": {"containers": [container], "volumes": list(volumes), **spec},
    }


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_config_map_follows_the_api(rig: Rig) -> None:
    rig.client.put("configmaps", "ns", "cm", data={"a": "1"}, binaryData={"b": b64("bin")})
    a_pod = pod({"name": "v", "configMap": {"name": "cm", "defaultMode": 0o400}})
    paths = await rig.manager.mount_pod(a_pod)
    path = Path(paths["v"])
    assert path == rig.root / "pods/u1/volumes/kubernetes.io~configmap/v" and mode(path) == 0o777
    assert ((path / "a").read_text(), (path / "b").read_text(), mode(path / "a")) == ("1", "bin", 0o400)
    assert (await rig.manager.container_mounts(a_pod, a_pod["spec"]["containers"][0]))[0].read_only
    await settle()
    rig.client.put("configmaps", "ns", "cm", data={"a": "2"})
    await rig.refreshed()
    assert (path / "a").read_text() == "2" and not (path / "b").exists()
    rig.client.drop("configmaps", "ns", "cm")
    await rig.refreshed()
    assert (path / "a").read_text() == "2"


async def test_items_and_modes(rig: Rig) -> None:
    rig.client.put("configmaps", "ns", "cm", data={"a": "1", "z": "9"})
    source = {"name": "cm", "items": [{"key": "a", "path": "deep/er", "mode": 0o440}]}
    path = Path((await rig.manager.mount_pod(pod({"name": "v", "configMap": source})))["v"])
    assert mode(path / "deep/er") == 0o440 and not (path / "z").exists()


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "no"}}, 'configmap "no" not found'),
        ({"secret": {"secretName": "no"}}, 'secret "no" not found'),
        (
            {"configMap": {"name": "cm", "items": [{"key": "x", "path": "x"}]}},
            "configmap references non-existent config key: x",
        ),
        ({"secret": {"secretName": "sec", "items": [{"key": "x", "path": "x"}]}}, "references non-existent secret key: x"),
        (
            {"projected": {"sources": [{"configMap": {"name": "no"}}, {"secret": {"name": "no"}}]}},
            '[configmap "no" not found, secret "no" not found]',
        ),
        ({"hostPath": {"path": "/dev/null", "type": "Directory"}}, "hostPath type check failed: /dev/null is not a directory"),
        ({"rbd": {}}, "no volume plugin matched name: kubernetes.io/rbd"),
    ],
)
async def test_failures_read_as_upstream(rig: Rig, volume: Obj, message: str) -> None:
    rig.client.put("configmaps", "ns", "cm", data={})
    rig.client.put("secrets", "ns", "sec", data={})
    with pytest.raises(VolumeError) as caught:
        await rig.manager.mount_pod(pod({"name": "v", **volume}))
    assert caught.value.reason == "FailedMount"
    assert caught.value.message == f'MountVolume.SetUp failed for volume "v" : {message}'


async def test_a_missing_object_that_appears_calls_for_a_retry(rig: Rig) -> None:
    retried: list[str] = []
    rig.manager.on_retry = retried.append
    a_pod = pod({"name": "v", "configMap": {"name": "cm"}})
    with pytest.raises(VolumeError):
        await rig.manager.mount_pod(a_pod)
    await settle()
    rig.client.put("configmaps", "ns", "cm", data={"a": "1"})
    await settle()
    assert retried == ["u1"] and await rig.manager.mount_pod(a_pod)


async def test_optional_and_unused_volumes(rig: Rig) -> None:
    a_pod = pod({"name": "v", "configMap": {"name": "no", "optional": True}})
    a_pod["spec"]["volumes"].append({"name": "unused", "secret": {"secretName": "no"}})
    paths = await rig.manager.mount_pod(a_pod)
    assert list(paths) == ["v"] and [n for n in os.listdir(paths["v"]) if not n.startswith("..")] == []
    await settle()
    rig.client.put("configmaps", "ns", "no", data={"late": "1"})
    await rig.refreshed()
    assert (Path(paths["v"]) / "late").read_text() == "1"


@needs_root
async def test_secret_is_on_tmpfs_and_goes_with_the_pod(rig: Rig) -> None:
    rig.client.put("secrets", "ns", "sec", data={"k": b64("pw")})
    a_pod = pod(
        {"name": "v", "secret": {"secretName": "sec"}}, {"name": "e", "emptyDir": {}}, securityContext={"fsGroup": 1001}
    )
    paths = await rig.manager.mount_pod(a_pod)
    secret = Path(paths["v"]) / "k"
    assert secret.read_text() == "pw" and mode(secret) == 0o644 and os.stat(secret).st_gid == 1001
    assert os.stat(paths["v"]).st_dev != os.stat(rig.root).st_dev
    assert mode(paths["e"]) == 0o2777 and os.stat(paths["e"]).st_gid == 1001
    (Path(paths["e"]) / "kept").write_text("x")
    assert await rig.manager.mount_pod(a_pod) == paths and (Path(paths["e"]) / "kept").exists()
    await rig.manager.unmount_pod("u1")
    assert not mounts.mount_points(os.path.realpath(rig.root)) and not (rig.root / "pods/u1/volumes").exists()
    assert (rig.root / "pods/u1").exists()
    await rig.manager.remove_pod("u1")
    await rig.manager.remove_pod("u1")
    assert os.listdir(rig.root / "pods") == []


@needs_root
@pytest.mark.parametrize(
    ("source", "size"), [({}, 64 << 20), ({"sizeLimit": "1Mi"}, 1 << 20), ({"sizeLimit": "1Gi"}, 64 << 20)]
)
async def test_memory_empty_dir(rig: Rig, source: Obj, size: int) -> None:
    paths = await rig.manager.mount_pod(pod({"name": "m", "emptyDir": {"medium": "Memory", **source}}))
    info = os.statvfs(paths["m"])
    assert info.f_blocks * info.f_frsize == size and mode(paths["m"]) == 0o777


@needs_root
async def test_projected_volume_of_a_service_account(rig: Rig) -> None:
    rig.client.put("configmaps", "ns", "kube-root-ca.crt", data={"ca.crt": "CA"})
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    a_pod = pod({"name": "v", "projected": {"sources": sources, "defaultMode": 0o644}}, securityContext={"runAsUser": 1000})
    path = Path((await rig.manager.mount_pod(a_pod))["v"])
    assert [(path / n).read_text() for n in ("token", "ca.crt", "namespace")] == ["t1", "CA", "ns"]
    assert mode(path / "token") == 0o600 and os.stat(path / "token").st_uid == 1000 and mode(path / "ca.crt") == 0o644
    rig.client.now += 3000
    rig.tokens._due(next(iter(rig.tokens._tokens)))
    await asyncio.gather(*rig.tokens._renewals)
    await rig.refreshed()
    assert (path / "token").read_text() == "t2"


@needs_root
async def test_downward_volume_follows_the_pod(rig: Rig) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
        {
            "path": "mem",
            "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"},
            "mode": 0o400,
        },
    ]
    a_pod = pod({"name": "v", "downwardAPI": {"items": items}})
    path = Path((await rig.manager.mount_pod(a_pod))["v"])
    assert [(path / n).read_text() for n in ("labels", "cpu", "mem")] == ['a="1"', "4", "64"] and mode(path / "mem") == 0o400
    changed = {**a_pod, "metadata": {**a_pod["metadata"], "labels": {"a": "2", "b": "3"}}}
    await rig.manager.pod_changed(changed)
    await rig.refreshed()
    assert (path / "labels").read_text() == 'a="2"\nb="3"'


@needs_root
async def test_sub_paths_of_a_container(rig: Rig) -> None:
    def mount(volume: Obj) -> Obj:
        return {"subPathExpr": "logs/$(POD)", "mountPropagation": "HostToContainer"}

    a_pod = pod({"name": "e", "emptyDir": {}}, mount=mount)
    paths = await rig.manager.mount_pod(a_pod)
    container = a_pod["spec"]["containers"][0]
    (found,) = await rig.manager.container_mounts(a_pod, container, [("POD", "p1")])
    assert found.container_path == "/mnt/e" and found.propagation == 1 and not found.read_only
    assert found.host_path == str(rig.root / "pods/u1/volume-subpaths/e/c/0")
    (Path(found.host_path) / "x").write_text("1")
    assert (Path(paths["e"]) / "logs/p1/x").read_text() == "1"
    for value, message in (
        ("", "missing value for POD"),
        ("../..", "unable to provision SubPath `logs/../..`: must not contain '..'"),
    ):
        with pytest.raises(VolumeError) as caught:
            await rig.manager.container_mounts(a_pod, container, [("POD", value)])
        assert (caught.value.reason, caught.value.message) == ("CreateContainerConfigError", message)
    os.symlink("/etc", Path(paths["e"]) / "logs/evil")
    with pytest.raises(VolumeError) as caught:
        await rig.manager.container_mounts(a_pod, container, [("POD", "evil")])
    assert caught.value.message == 'failed to prepare subPath for volumeMount "e" of container "c"'
    await rig.manager.remove_pod("u1")
    assert not mounts.mount_points(os.path.realpath(rig.root))


@needs_root
@pytest.mark.parametrize("around", ["private", "shared"])
@pytest.mark.parametrize("medium", ["", "Memory"])
async def test_propagation_makes_a_volume_shared(rig: Rig, medium: str, around: str) -> None:
    """On a disk whose mounts nobody hears of, as in a container, and on one that is shared, as systemd leaves them."""
    disk = os.path.realpath(rig.root)
    mounts.bind(disk, disk)
    # Private first: a bind of what is shared is its twin, and every mount below would be there twice.
    mounts.mount("none", disk, "", mounts.MS_PRIVATE)
    if around == "shared":
        mounts.mount("none", disk, "", mounts.MS_SHARED)
    a_pod = pod({"name": "e", "emptyDir": {"medium": medium}}, mount=lambda _: {"mountPropagation": "Bidirectional"})
    for _ in range(2):
        path = os.path.realpath((await rig.manager.mount_pod(a_pod))["e"])
        assert mounts.is_shared(path)
        # What is shared already needs no mount of its own.
        assert mounts.mount_points(path) == ([path] if medium or around == "private" else [])
    await rig.manager.remove_pod("u1")
    assert mounts.mount_points(disk) == [disk]


@needs_root
async def test_local_and_host_path_claims(rig: Rig) -> None:
    (rig.root / "disk").mkdir()
    for name, source in (
        ("local", {"local": {"path": str(rig.root / "disk")}}),
        ("host", {"hostPath": {"path": str(rig.root / "disk")}}),
    ):
        claim = rig.client.put(
            "persistentvolumeclaims", "ns", name, spec={"volumeName": f"pv-{name}"}, status={"phase": "Bound"}
        )
        rig.client.put("persistentvolumes", "", f"pv-{name}", spec={**source, "claimRef": {"uid": claim["metadata"]["uid"]}})
    a_pod = pod(
        {"name": "l", "persistentVolumeClaim": {"claimName": "local"}},
        {"name": "h", "persistentVolumeClaim": {"claimName": "host"}},
    )
    paths = await rig.manager.mount_pod(a_pod)
    assert paths == {"l": str(rig.root / "pods/u1/volumes/kubernetes.io~local-volume/pv-local"), "h": str(rig.root / "disk")}
    (Path(paths["l"]) / "x").write_text("1")
    await rig.manager.remove_pod("u1")
    assert (rig.root / "disk/x").read_text() == "1"


async def test_an_unbound_claim(rig: Rig) -> None:
    rig.client.put("persistentvolumeclaims", "ns", "c", spec={}, status={"phase": "Pending"})
    with pytest.raises(VolumeError, match="error processing PVC ns/c: PVC is not bound"):
        await rig.manager.mount_pod(pod({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}))


@needs_root
async def test_orphans_of_an_earlier_run(rig: Rig) -> None:
    (rig.root / "pods/gone/volumes/x").mkdir(parents=True)
    mounts.mount_tmpfs(str(rig.root / "pods/gone/volumes/x"))
    (rig.root / "pods/stays").mkdir()
    assert await rig.manager.cleanup_orphans({"stays"}) == ["gone"]
    assert os.listdir(rig.root / "pods") == ["stays"]


async def test_fifty_config_maps_are_quick(rig: Rig) -> None:
    for index in range(50):
        rig.client.put("configmaps", "ns", f"cm{index}", data={"data-1": "x"})
    a_pod = pod(*({"name": f"v{index}", "configMap": {"name": f"cm{index}"}} for index in range(50)))
    started = time.process_time()
    paths = await rig.manager.mount_pod(a_pod)
    assert len(paths) == 50 and (Path(paths["v49"]) / "data-1").read_text() == "x"
    # CPU time, so that a busy machine does not matter.
    assert time.process_time() - started < 0.3
