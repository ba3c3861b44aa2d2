"""What the chart makes: pods, permissions, stores, migrations, CRDs."""

from __future__ import annotations

import base64
import os
from urllib.parse import urlsplit

import pytest
import yaml

from perdure.api import custom_resources
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.http.limits import MIB
from perdure.kube import resources
from perdure.settings import Settings

from .helm import (
    EVALUATION,
    EXTERNAL,
    ROOT,
    VALUES,
    containers,
    environment,
    one,
    pick,
    pod_templates,
    render,
)


@pytest.fixture(scope="module")
def evaluation():
    return render(*EVALUATION)


@pytest.fixture(scope="module")
def external():
    return render(*EXTERNAL)


# ------------------------------------------------------------------------------------------------ pods


@pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem)
def test_every_pod_meets_the_restricted_standard(values):
    templates = pod_templates(render(files=[values]))
    assert templates
    for name, template in templates.items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, name
        for volume in spec["volumes"]:
            allowed = {"emptyDir", "secret", "configMap", "projected", "persistentVolumeClaim"}
            assert set(volume) - {"name"} <= allowed, name
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], name


@pytest.mark.parametrize("values", VALUES, ids=lambda file: file.stem)
def test_no_pod_gets_the_variables_of_services(values):
    # PERDURE_GATEWAY_PORT=tcp://10.… would be read as a setting, and refused.
    for name, template in pod_templates(render(files=[values])).items():
        assert template["spec"]["enableServiceLinks"] is False, name


def test_only_operator_and_gateway_get_a_token(evaluation, external):
    for manifests in (evaluation, external):
        with_token = {
            name
            for name, template in pod_templates(manifests).items()
            if template["spec"]["automountServiceAccountToken"]
        }
        assert with_token == {"Deployment/perdure-operator", "Deployment/perdure-gateway"}
        assert all(
            account["automountServiceAccountToken"] is False for account in pick(manifests, "ServiceAccount")
        )


def test_every_variable_is_a_setting_and_has_a_value_it_takes(external, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    for template in pod_templates(external).values():
        for container in containers(template):
            for name, variable in environment(container).items():
                assert name.removeprefix("PERDURE_").lower() in Settings.model_fields, name
                if "value" in variable:
                    monkeypatch.setenv(name, variable["value"])
    settings = Settings()
    assert settings.gateway_url == "http://perdure-gateway.perdure-system.svc:8080"
    assert settings.lease_name == "perdure-operator"
    assert settings.watch_namespaces == ()
    assert settings.kubernetes_events is True
    assert settings.workers == 32


def test_urls_come_from_the_given_secrets():
    manifests = render(*EXTERNAL, "database.key=dsn", "nats.key=servers")
    for name in ("perdure-operator", "perdure-gateway"):
        (container,) = one(manifests, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        variables = environment(container)
        database = variables["PERDURE_DATABASE_URL"]["valueFrom"]["secretKeyRef"]
        nats = variables["PERDURE_NATS_URL"]["valueFrom"]["secretKeyRef"]
        assert database == {"name": "db", "key": "dsn"}
        assert nats == {"name": "bus", "key": "servers"}
    assert not pick(manifests, "Secret")
    assert not pick(manifests, "StatefulSet")


def test_probes_ask_the_ports_that_the_processes_open(external):
    settings = Settings()
    expected = {"perdure-operator": settings.health_port, "perdure-gateway": settings.gateway_port}
    for name, number in expected.items():
        (container,) = one(external, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
            asked = container[f"{probe}Probe"]["httpGet"]
            assert (asked["path"], ports[asked["port"]]) == (path, number)


def test_a_certificate_makes_the_gateway_speak_https_and_agents_trust_it(monkeypatch):
    manifests = render(*EXTERNAL, "gateway.tls.secretName=gateway-tls")
    gateway, operator = (
        one(manifests, "Deployment", name)["spec"]["template"]["spec"]
        for name in ("perdure-gateway", "perdure-operator")
    )
    (container,), (other,) = gateway["containers"], operator["containers"]
    monkeypatch.setenv("PERDURE_GATEWAY_CA_FILE", environment(other)["PERDURE_GATEWAY_CA_FILE"]["value"])
    for name in ("PERDURE_GATEWAY_TLS_CERT_FILE", "PERDURE_GATEWAY_TLS_KEY_FILE"):
        monkeypatch.setenv(name, environment(container)[name]["value"])
    settings = Settings()
    assert _file(gateway, container, settings.gateway_tls_cert_file) == ("gateway-tls", "tls.crt")
    assert _file(gateway, container, settings.gateway_tls_key_file) == ("gateway-tls", "tls.key")
    assert _file(operator, other, settings.gateway_ca_file) == ("gateway-tls", "ca.crt")
    url = environment(other)["PERDURE_GATEWAY_URL"]["value"]
    assert url == "https://perdure-gateway.perdure-system.svc:8080"
    for probe in ("startup", "liveness", "readiness"):
        assert container[f"{probe}Probe"]["httpGet"]["scheme"] == "HTTPS"
        assert "scheme" not in other[f"{probe}Probe"]["httpGet"]


def test_the_gateway_s_folder_holds_all_uploads_at_once_and_more():
    (volume,) = one(render(*EXTERNAL), "Deployment", "perdure-gateway")["spec"]["template"]["spec"]["volumes"]
    size = volume["emptyDir"]["sizeLimit"]
    assert size.endswith("Mi")
    assert int(size.removesuffix("Mi")) * MIB > AgentLimits().uploads * AgentLimits().checkpoint


def test_connections_of_the_values_reach_the_gateway():
    manifests = render(*EXTERNAL, "gateway.connections=9000", "gateway.connectionsPerAddress=8000")
    (container,) = one(manifests, "Deployment", "perdure-gateway")["spec"]["template"]["spec"]["containers"]
    variables = environment(container)
    assert variables["PERDURE_GATEWAY_CONNECTIONS"]["value"] == "9000"
    assert variables["PERDURE_GATEWAY_CONNECTIONS_PER_ADDRESS"]["value"] == "8000"


def test_only_the_gateway_gets_the_key_of_its_certificate():
    manifests = render(*EXTERNAL, "gateway.tls.secretName=gateway-tls")
    with_key = {
        name
        for name, template in pod_templates(manifests).items()
        for volume in template["spec"]["volumes"]
        if {"key": "tls.key", "path": "tls.key"} in volume.get("secret", {}).get("items", ())
    }
    assert with_key == {"Deployment/perdure-gateway"}
    # The hook may run before the certificate was issued.
    (job,) = [one for name, one in pod_templates(manifests).items() if name.startswith("Job/")]
    assert [volume["name"] for volume in job["spec"]["volumes"]] == ["tmp"]


def _file(spec, container, path):
    """Secret and key behind a file of a container."""
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == str(path.parent)]
    (secret,) = [each["secret"] for each in spec["volumes"] if each["name"] == mount["name"]]
    (key,) = [item["key"] for item in secret["items"] if item["path"] == path.name]
    return secret["secretName"], key


def test_the_gateway_service_selects_the_gateway_only(evaluation):
    service = one(evaluation, "Service", "perdure-gateway")
    chosen = [
        name
        for name, template in pod_templates(evaluation).items()
        if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ]
    assert chosen == ["Deployment/perdure-gateway"]


@pytest.mark.parametrize(
    ("sets", "image"),
    [
        ((), "docker.io/perdure/perdure:0.1.0"),
        (("image.tag=dev",), "docker.io/perdure/perdure:dev"),
        (("image.registry=", "image.repository=r.example:5000/p"), "r.example:5000/p:0.1.0"),
        (
            ("image.tag=dev", f"image.digest=sha256:{'a' * 64}"),
            f"docker.io/perdure/perdure@sha256:{'a' * 64}",
        ),
    ],
)
def test_the_image_has_registry_repository_and_tag(sets, image):
    for template in pod_templates(render(*EXTERNAL, *sets)).values():
        assert {container["image"] for container in containers(template)} == {image}


def test_placement_and_additions_reach_the_pods():
    manifests = render(
        *EXTERNAL,
        "imagePullSecrets[0].name=pull",
        "operator.priorityClassName=high",
        "operator.nodeSelector.disk=ssd",
        "operator.podAnnotations.note=x",
        "operator.podLabels.team=y",
        "operator.extraEnv[0].name=EXTRA",
        "operator.extraEnv[0].value=z",
        "operator.serviceAccount.annotations.role=arn",
        "operator.tolerations[0].operator=Exists",
    )
    template = one(manifests, "Deployment", "perdure-operator")["spec"]["template"]
    assert template["metadata"]["annotations"] == {"note": "x"}
    assert template["metadata"]["labels"]["team"] == "y"
    assert template["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert template["spec"]["priorityClassName"] == "high"
    assert template["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert template["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert environment(template["spec"]["containers"][0])["EXTRA"]["value"] == "z"
    account = one(manifests, "ServiceAccount", "perdure-operator")
    assert account["metadata"]["annotations"] == {"role": "arn"}
    gateway = one(manifests, "Deployment", "perdure-gateway")["spec"]["template"]
    assert "priorityClassName" not in gateway["spec"]


def test_disruption_budgets_are_off_unless_asked_for(external):
    assert not pick(external, "PodDisruptionBudget")
    budget = one(
        render(*EXTERNAL, "operator.podDisruptionBudget.enabled=true"),
        "PodDisruptionBudget",
        "perdure-operator",
    )
    assert budget["spec"]["minAvailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_every_namespaced_object_names_its_namespace(evaluation, external):
    cluster_scoped = {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    for manifest in [*evaluation, *external]:
        if manifest["kind"] not in cluster_scoped:
            assert manifest["metadata"]["namespace"] == "perdure-system", manifest["metadata"]["name"]


def test_objects_follow_the_release_name_and_its_override():
    names = {
        manifest["metadata"]["name"] for manifest in pick(render(*EXTERNAL, release="blue"), "Deployment")
    }
    assert names == {"blue-perdure-operator", "blue-perdure-gateway"}
    long = render(*EXTERNAL, f"fullnameOverride={'x' * 80}")
    assert all(len(manifest["metadata"]["name"]) <= 63 for manifest in pick(long, "Service"))


# ------------------------------------------------------------------------------------------ permissions


def _rules(role):
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule.get("apiGroups", [])
        for resource in rule.get("resources", [])
    }


ALLOWED = {
    ("perdure.dev", "workflows"): {"get", "list", "watch", "create", "patch", "delete"},
    ("perdure.dev", "agenttasks"): {"get", "list", "watch", "create", "delete"},
    ("perdure.dev", "agenttemplates"): {"get", "list", "watch"},
    ("perdure.dev", "workflowtemplates"): {"get", "list", "watch"},
    ("perdure.dev", "workflowschedules"): {"get", "list", "watch"},
    ("perdure.dev", "workflows/status"): {"get", "patch"},
    ("perdure.dev", "agenttasks/status"): {"get", "patch"},
    ("perdure.dev", "workflowschedules/status"): {"get", "patch"},
    ("", "pods"): {"get", "list", "watch", "create", "delete"},
    ("batch", "jobs"): {"get", "list", "create", "delete"},
    ("", "events"): {"create", "patch"},
    ("events.k8s.io", "events"): {"create", "patch", "list"},
}


def test_the_operator_has_exactly_these_permissions(external):
    assert _rules(one(external, "ClusterRole", "perdure-operator")) == ALLOWED
    lease = one(external, "Role", "perdure-operator-lease")
    assert lease["metadata"]["namespace"] == "perdure-system"
    assert lease["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["perdure-operator"],
            "verbs": ["get", "update", "patch"],
        },
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    ]


def test_permissions_and_the_table_of_kinds_name_the_same_resources(external):
    table = {
        (kind.api_version.rpartition("/")[0], kind.plural)
        for kind in resources.KINDS.values()
        # Namespaces are made by tests only, and the Lease is in a Role of its own.
        if kind.name not in {"Namespace", "Lease"}
    }
    granted = {(group, resource) for group, resource in ALLOWED if "/" not in resource}
    assert granted - {("", "events")} == table
    with_status = {kind.plural for kind in custom_resources.KINDS if kind.status is not None}
    assert {resource for _, resource in ALLOWED if "/" in resource} == {f"{it}/status" for it in with_status}
    # kopf watches every kind of ours.
    for kind in custom_resources.KINDS:
        assert ALLOWED["perdure.dev", kind.plural] >= {"get", "list", "watch"}


def test_watched_namespaces_get_roles_instead_of_a_cluster_role():
    manifests = render(*EXTERNAL, "watchNamespaces={team-a,team-b}")
    assert not pick(manifests, "ClusterRole", "perdure-operator")
    assert not pick(manifests, "ClusterRoleBinding", "perdure-operator")
    roles = pick(manifests, "Role", "perdure-operator")
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert all(_rules(role) == ALLOWED for role in roles)
    bindings = pick(manifests, "RoleBinding", "perdure-operator")
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["team-a", "team-b"]
    assert all(binding["subjects"][0]["namespace"] == "perdure-system" for binding in bindings)
    (container,) = one(manifests, "Deployment", "perdure-operator")["spec"]["template"]["spec"]["containers"]
    assert environment(container)["PERDURE_WATCH_NAMESPACES"]["value"] == "team-a,team-b"


def test_two_operators_share_a_lease_of_the_length_that_is_asked_for():
    lease = ("operator.lease.duration=4", "operator.lease.renewDeadline=3", "operator.lease.retry=0.5")
    deployment = one(render(*EXTERNAL, "operator.replicas=2", *lease), "Deployment", "perdure-operator")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    env = environment(container)
    assert deployment["spec"]["replicas"] == 2
    assert env["PERDURE_LEASE_NAME"]["value"] == "perdure-operator"
    assert [env[f"PERDURE_LEASE_{name}"]["value"] for name in ("DURATION", "RENEW_DEADLINE", "RETRY")] == [
        "4",
        "3",
        "0.5",
    ]


def test_the_gateway_may_read_the_clusters_keys_and_nothing_else(external):
    assert one(external, "ClusterRole", "perdure-gateway")["rules"] == [
        {"nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"], "verbs": ["get"]}
    ]
    roles_of_gateway = [
        binding["metadata"]["name"]
        for binding in [*pick(external, "ClusterRoleBinding"), *pick(external, "RoleBinding")]
        if any(subject["name"] == "perdure-gateway" for subject in binding["subjects"])
    ]
    assert roles_of_gateway == ["perdure-gateway"]


def test_users_get_the_permissions_of_their_role_in_the_namespace(external):
    reading = {"get", "list", "watch"}
    for name in ("view", "edit", "admin"):
        role = one(external, "ClusterRole", f"perdure-{name}")
        assert role["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{name}"] == "true"
        for kind in custom_resources.KINDS:
            verbs = _rules(role)[("perdure.dev", kind.plural)]
            assert verbs == reading if name == "view" else verbs > reading
            # Status is the operator's to write.
            if kind.status is not None:
                assert _rules(role)[("perdure.dev", f"{kind.plural}/status")] == {"get"}


def test_the_chart_can_leave_out_permissions():
    manifests = render(*EXTERNAL, "rbac.create=false")
    kinds = {manifest["kind"] for manifest in manifests}
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


# ------------------------------------------------------------------------------------------- migrations


def test_every_pod_migrates_first(evaluation, external):
    for manifests in (evaluation, external):
        for name in ("perdure-operator", "perdure-gateway"):
            (initial,) = one(manifests, "Deployment", name)["spec"]["template"]["spec"]["initContainers"]
            assert initial["command"] + initial["args"] == ["perdure", "migrate", "--wait", "300s"]
            # Migrating needs the database alone: NATS being away must not hold it up.
            assert "PERDURE_NATS_URL" not in environment(initial)


def test_a_hook_migrates_where_the_database_exists_before_the_release(external):
    (job,) = pick(external, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    # The release's ServiceAccounts do not exist yet when it runs.
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    for name in ("perdure-operator", "perdure-gateway"):
        selector = one(external, "Deployment", name)["spec"]["selector"]["matchLabels"]
        assert not selector.items() <= labels.items()


def test_no_hook_waits_for_a_database_of_the_same_release(evaluation):
    assert not pick(evaluation, "Job")
    assert not pick(render(*EXTERNAL, "migrations.hook=false"), "Job")


# ------------------------------------------------------------------------------------- bundled stores


def test_bundled_stores_have_passwords_of_their_own(evaluation):
    urls = {}
    for store in ("postgres", "nats"):
        data = one(evaluation, "Secret", f"perdure-{store}")["stringData"]
        url = urlsplit(data["url"])
        assert url.password == data["password"]
        assert len(data["password"]) == 32
        assert url.hostname == f"perdure-{store}.perdure-system.svc"
        service = one(evaluation, "Service", f"perdure-{store}")
        assert service["spec"]["ports"][0]["port"] == url.port
        urls[store] = url
    assert urls["postgres"].password != urls["nats"].password
    assert urls["postgres"].scheme == "postgresql"
    assert (
        f'password: "{urls["nats"].password}"'
        in one(evaluation, "Secret", "perdure-nats")["stringData"]["nats.conf"]
    )
    again = one(render(*EVALUATION), "Secret", "perdure-postgres")["stringData"]
    assert again["password"] != urls["postgres"].password


def test_no_password_is_written_outside_secrets(evaluation):
    passwords = [secret["stringData"]["password"] for secret in pick(evaluation, "Secret")]
    others = yaml.safe_dump([manifest for manifest in evaluation if manifest["kind"] != "Secret"])
    for password in passwords:
        assert password not in others
        assert base64.b64encode(password.encode()).decode() not in others


def test_an_upgrade_cannot_replace_a_store_whose_data_is_in_its_pod(evaluation):
    # Whatever differs between two versions of the chart must not be in the pod's template.
    later = render(*EVALUATION, "image.tag=later", "logging.level=debug", "operator.podLabels.a=b")
    for store in ("postgres", "nats"):
        before = one(evaluation, "StatefulSet", f"perdure-{store}")
        after = one(later, "StatefulSet", f"perdure-{store}")
        assert before["spec"] == after["spec"]
        assert before["spec"]["updateStrategy"] == {"type": "OnDelete"}
        labels = before["spec"]["template"]["metadata"]["labels"]
        assert labels == before["spec"]["selector"]["matchLabels"]
        assert "annotations" not in before["spec"]["template"]["metadata"]


def test_persistence_keeps_the_volume_and_its_password():
    manifests = render(
        *EVALUATION,
        "evaluation.postgres.persistence.enabled=true",
        "evaluation.postgres.persistence.storageClassName=fast",
    )
    postgres = one(manifests, "StatefulSet", "perdure-postgres")["spec"]
    (claim,) = postgres["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert postgres["updateStrategy"] == {"type": "RollingUpdate"}
    assert "data" not in {volume["name"] for volume in postgres["template"]["spec"]["volumes"]}
    secret = one(manifests, "Secret", "perdure-postgres")
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    nats = one(manifests, "StatefulSet", "perdure-nats")["spec"]
    assert "volumeClaimTemplates" not in nats
    assert "annotations" not in one(manifests, "Secret", "perdure-nats")["metadata"]


# ----------------------------------------------------------------------------------------------- CRDs


def test_the_charts_crds_are_the_generated_ones(external):
    generated = {file.name: file.read_text() for file in (ROOT / "crds").glob("*.yaml")}
    bundled = {file.name: file.read_text() for file in (ROOT / "charts/perdure/files/crds").glob("*.yaml")}
    assert len(generated) == len(custom_resources.KINDS)
    assert bundled == generated, "run `make crds`"
    for text in generated.values():
        crd = yaml.safe_load(text)
        installed = one(external, "CustomResourceDefinition", crd["metadata"]["name"])
        assert installed["spec"] == crd["spec"]


def test_crds_outlive_the_release_unless_a_value_says_otherwise(external):
    for crd in pick(external, "CustomResourceDefinition"):
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for crd in pick(render(*EXTERNAL, "crds.keep=false"), "CustomResourceDefinition"):
        assert "helm.sh/resource-policy" not in crd["metadata"].get("annotations", {})
    assert not pick(render(*EXTERNAL, "crds.install=false"), "CustomResourceDefinition")


def test_the_admission_policy_can_be_left_out(external):
    assert pick(external, "ValidatingAdmissionPolicy")
    assert pick(external, "ValidatingAdmissionPolicyBinding")
    without = render(*EXTERNAL, "admissionPolicy.enabled=false")
    assert not pick(without, "ValidatingAdmissionPolicy")
    assert not pick(without, "ValidatingAdmissionPolicyBinding")


def test_the_page_of_security_lists_exactly_the_operator_s_permissions(external):
    (role,) = pick(external, "ClusterRole", "perdure-operator")
    page = (ROOT / "docs" / "security.md").read_text()
    table = page.partition("The operator's account, in each namespace that it watches:")[2]
    rows = [row.strip("| ").split(" | ") for row in table.split("\n\n")[1].splitlines()[2:]]
    listed = [
        {
            "apiGroups": ["" if group == "core" else group for group in groups.split(", ")],
            "resources": resources.split(", "),
            "verbs": verbs.split(", "),
        }
        for groups, resources, verbs in rows
    ]
    assert listed == role["rules"]


def test_the_chart_names_every_kind_for_the_artifact_hub(external):
    chart = yaml.safe_load((ROOT / "charts/perdure/Chart.yaml").read_text())
    named = yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])
    assert sorted((crd["kind"], crd["name"], crd["version"]) for crd in named) == sorted(
        (crd["spec"]["names"]["kind"], crd["metadata"]["name"], crd["spec"]["versions"][0]["name"])
        for crd in pick(external, "CustomResourceDefinition")
    )
