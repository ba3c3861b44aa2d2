"""The configuration of one node: containerd, CNI, kubelet, kube-proxy, CoreDNS.

Why: these five know each other by sockets, folders and addresses that only
have a meaning inside the cluster's namespaces, so they are written in one place.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cgroups, packages, programs
from .control_plane import POD_CIDR, Plane
from .network import BRIDGE, BRIDGE_ADDRESS, Wire
from .probes import COREDNS_READY_PORT

NAME = "node-1"
SOCKET = "/run/containerd/containerd.sock"
PAUSE = "perdure.dev/pause:1"


@dataclass(frozen=True)
class Node:
    plane: Plane
    wire: Wire
    cgroup: str

    @property
    def folder(self) -> Path:
        return self.plane.state_dir / "node"

    def containerd(self) -> list[str]:
        # JSON strings are TOML strings.
        quote = json.dumps
        settings = f"""\
version = 2
root = {quote(str(self.folder / "containerd"))}
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = {quote(SOCKET)}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {quote(PAUSE)}
# Without CAP_SYS_RESOURCE runc dies when a lower score is requested.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {quote(packages.cni_folder())}
conf_dir = {quote(str(self._cni()))}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""
        return ["containerd", f"--config={self._write('containerd.toml', settings)}"]

    def _cni(self) -> Path:
        pods = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/run/cni",
                        "ranges": [[{"subnet": POD_CIDR, "gateway": BRIDGE_ADDRESS}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        folder = self.folder / "cni"
        folder.mkdir()
        (folder / "pods.conflist").write_text(json.dumps(pods, indent=1))
        return folder

    def kubelet(self) -> list[str]:
        names = self._write("resolv.conf", f"nameserver {BRIDGE_ADDRESS}\n")
        config: dict[str, Any] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": self.plane.pki.file("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            # The machine's, which may be of version 1, is what there is.
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [BRIDGE_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(names),
            "volumePluginDir": "/var/lib/kubelet/plugins-exec",
            # The disk and memory are the machine's: their shortage is no
            # reason to evict a test's pods or to delete images that no
            # registry has.
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "enforceNodeAllocatable": [],
            "imageGCHighThresholdPercent": 100,
            "imageMinimumGCAge": "24h",
            "serializeImagePulls": False,
            "maxPods": 250,
            "podPidsLimit": -1,
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "eventRecordQPS": 0,
            "registryPullQPS": 0,
            "runtimeRequestTimeout": "2m",
        }
        target = self._write("kubelet.json", json.dumps(config, indent=1))
        return [
            str(programs.path("kubelet")),
            f"--config={target}",
            f"--kubeconfig={self.plane.kubeconfig('node')}",
            f"--hostname-override={NAME}",
            f"--node-ip={self.wire.node}",
        ]

    def proxy(self) -> list[str]:
        return [
            str(programs.path("kube-proxy")),
            f"--kubeconfig={self.plane.kubeconfig('proxy')}",
            f"--hostname-override={NAME}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_CIDR}",
            "--iptables-min-sync-period=100ms",
            # These would be set for the whole machine, or cannot be set here.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]

    def coredns(self) -> list[str]:
        corefile = f"""\
.:53 {{
    errors
    ready :{COREDNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {self.plane.kubeconfig("coredns")}
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""
        return [str(programs.path("coredns")), f"-conf={self._write('Corefile', corefile)}"]

    def create_cgroup(self) -> None:
        cgroups.create(self.cgroup)

    def _write(self, name: str, text: str) -> Path:
        target = self.folder / name
        target.write_text(text)
        return target
