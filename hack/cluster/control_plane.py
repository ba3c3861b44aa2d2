"""The command lines of etcd, API server, controller manager and scheduler.

Why: all modes run the same control plane; they differ in where it listens and
in how much it may lose.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from . import programs
from .certs import Pki

SERVICE_CIDR = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"  # of the API server, inside the cluster
POD_CIDR = "10.244.0.0/16"
ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True)
class Plane:
    """The addresses and data folders of a control plane."""

    state_dir: Path
    pki: Pki
    address: str  # the API server's address for clients on this machine
    port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    nodes: bool = False  # kubelets exist, real or simulated
    durable: bool = False
    busy: bool = False  # thousands of simulated pods will be asked for

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def local_server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, user: str) -> str:
        target = self.pki.folder / f"{user}.kubeconfig"
        return str(self.pki.write_kubeconfig(target, user, self.local_server))

    def etcd(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer_port}"
        return [
            str(programs.path("etcd")),
            f"--data-dir={self.state_dir / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
            "--quota-backend-bytes=4294967296",
            *([] if self.durable else ["--unsafe-no-fsync"]),
        ]

    def apiserver(self) -> list[str]:
        file = self.pki.file
        argv = [
            str(programs.path("kube-apiserver")),
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.port}",
            f"--advertise-address={self.address}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            f"--client-ca-file={file('ca.crt')}",
            f"--token-auth-file={file('tokens.csv')}",
            f"--tls-cert-file={file('server.crt')}",
            f"--tls-private-key-file={file('server.key')}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={file('accounts.pub')}",
            f"--service-account-signing-key-file={file('accounts.key')}",
            f"--kubelet-client-certificate={file('kubelet-client.crt')}",
            f"--kubelet-client-key={file('kubelet-client.key')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
        ]
        if not self.nodes or self.busy:
            # Loopback may not be the endpoint of the `kubernetes` Service.
            argv += ["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"]
        if self.busy:
            argv += ["--max-requests-inflight=3000", "--max-mutating-requests-inflight=1000"]
        return argv

    def controller_manager(self) -> list[str]:
        argv = [
            str(programs.path("kube-controller-manager")),
            f"--kubeconfig={self.kubeconfig('controller-manager')}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.pki.file('accounts.key')}",
            f"--root-ca-file={self.pki.file('ca.crt')}",
            f"--cluster-signing-cert-file={self.pki.file('ca.crt')}",
            f"--cluster-signing-key-file={self.pki.file('ca.key')}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]
        if not self.nodes:
            # Tests play the kubelet there: a pod on a node that does not exist
            # is theirs, and must not be collected as an orphan.
            argv.append("--controllers=*,-pod-garbage-collector-controller,-node-lifecycle-controller")
        if self.busy:
            argv += [
                "--concurrent-gc-syncs=40",
                "--concurrent-job-syncs=40",
                "--node-monitor-grace-period=5m",
                # By default it deletes an ended pod for each that ends beyond 12,500: thousands of writes a
                # minute that are nobody's, just while something is measured.
                "--terminated-pod-gc-threshold=100000",
            ]
        return argv

    def scheduler(self) -> list[str]:
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": self.kubeconfig("scheduler"), "qps": 1000, "burst": 2000},
            "leaderElection": {"leaderElect": False},
            "podInitialBackoffSeconds": 1,
            "podMaxBackoffSeconds": 2,
        }
        target = self.state_dir / "scheduler.json"
        target.write_text(json.dumps(config, indent=1))
        return [str(programs.path("kube-scheduler")), f"--config={target}", "--secure-port=0"]
