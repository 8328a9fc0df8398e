"""Drives a swarm with the docker SDK for Python: sdk.py HOST IMAGE. Fails with the first thing that is otherwise than expected."""
import sys
import time

import docker
from docker.errors import APIError
from docker.types import EndpointSpec, IPAMConfig, IPAMPool, SecretReference, ConfigReference, ServiceMode, RestartPolicy, UpdateConfig

host, image = sys.argv[1:]
client = docker.DockerClient(base_url=host, version="auto", timeout=90)
api = client.api


def expect(what, got, want):
    if got != want:
        sys.exit(f"{what}: {got!r}, want {want!r}")


def refused(status, text, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except APIError as e:
        if e.status_code != status or text not in e.explanation:
            sys.exit(f"refused with {e.status_code} {e.explanation!r}, want {status} {text!r}")
        return
    sys.exit(f"{call.__name__} was not refused")


def eventually(what, check):
    deadline = time.monotonic() + 90
    while not check():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within 90 s")
        time.sleep(0.2)


began = time.time()

# The swarm and its nodes.
client.swarm.reload()
worker = client.swarm.attrs["JoinTokens"]["Worker"]
client.swarm.update(rotate_worker_token=True, task_history_retention_limit=4)
client.swarm.reload()
expect("the token was rotated", client.swarm.attrs["JoinTokens"]["Worker"] == worker, False)
expect("history", client.swarm.attrs["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"], 4)
refused(503, "already part of a swarm", client.swarm.init)
refused(400, "version", api._result, api._post(api._url("/swarm/update"), data="{}"))
(node,) = client.nodes.list(filters={"role": "worker"})
expect("hostname", node.attrs["Description"]["Hostname"], "node2")
spec = dict(node.attrs["Spec"], Labels={"python": "yes"})
stale = node.version
expect("node update", node.update(spec), True)
refused(500, "update out of sequence", api.update_node, node.id, stale, spec)
expect("node.label", [n.id for n in client.nodes.list(filters={"node.label": "python=yes"})], [node.id])
node.reload()
node.update(dict(spec, Labels={}))

# Networks, secrets, configs.
network = client.networks.create("py-net", driver="overlay", attachable=True, labels={"by": "py"},
                                 ipam=IPAMConfig(pool_configs=[IPAMPool(subnet="10.79.0.0/24")]))
network.reload()
expect("scope", network.attrs["Scope"], "swarm")
refused(409, "already exists", client.networks.create, "py-net", driver="overlay", check_duplicate=True)
expect("networks", [n.name for n in client.networks.list(filters={"label": "by=py"})], ["py-net"])
secret = client.secrets.get(api.create_secret("py-secret", b"sesame", labels={"by": "py"})["ID"])
config = client.configs.get(api.create_config("py-config", b"plain", labels={"by": "py"})["ID"])
expect("secrets", [s.name for s in client.secrets.list(filters={"label": "by=py"})], ["py-secret"])
expect("configs", [s.name for s in client.configs.list(filters={"name": "py-c"})], ["py-config"])
refused(409, "already exists", api.create_secret, "py-secret", b"other")

# A service and its tasks.
service = client.services.create(
    image, name="python", labels={"by": "py"}, networks=["py-net"], mode=ServiceMode("replicated", replicas=2), env=["A=b"],
    secrets=[SecretReference(secret.id, secret.name)], configs=[ConfigReference(config.id, config.name)],
    endpoint_spec=EndpointSpec(ports={8079: 8080}), restart_policy=RestartPolicy("any", delay=1), update_config=UpdateConfig(parallelism=2, monitor=10**9))


def running(n):
    states = [t["Status"]["State"] for t in service.tasks(filters={"desired-state": "running"})]
    return states == ["running"] * n


eventually("two tasks run", lambda: running(2))
expect("services", [s.name for s in client.services.list(filters={"label": ["by=py"]})], ["python"])
refused(400, "in use by the following service: python", secret.remove)
refused(404, "service nope not found", client.services.get, "nope")
task = service.tasks()[0]
expect("task", api.inspect_task(task["ID"])["ServiceID"], service.id)
eventually("two tasks speak", lambda: b"".join(service.logs(stdout=True, stderr=True)).count(b"serves on") == 2)
service.reload()
expect("scale", service.scale(1)["Warnings"], None)
eventually("one task runs", lambda: running(1))
service.reload()
service.update(image=image, env=["A=c"], fetch_current_spec=True)
eventually("the update is through", lambda: running(1) and client.services.get("python").attrs.get("UpdateStatus", {}).get("State") == "completed")
service.reload()
service.force_update()
eventually("one task runs again", lambda: running(1))

# A container on the network, through the engine behind it.
container = client.containers.run(image, detach=True, network="py-net", name="py-container")
container.reload()
address = container.attrs["NetworkSettings"]["Networks"]["py-net"]["IPAddress"]
expect("address", address.startswith("10.79.0."), True)
container.remove(force=True)

service.remove()
eventually("the service is gone", lambda: not client.services.list(filters={"name": "python"}))
secret.remove()
config.remove()


def free():
    try:
        network.remove()
        return True
    except APIError as e:
        if "in use" not in e.explanation:
            raise
        return False


eventually("the network is free", free)

# What has happened.
told = [(e["Type"], e["Action"], e["Actor"]["Attributes"].get("name"))
        for e in client.events(since=began, until=time.time(), decode=True, filters={"scope": "swarm", "type": ["service", "secret", "config", "network"]})]
for kind, name in (("network", "py-net"), ("secret", "py-secret"), ("config", "py-config"), ("service", "python")):
    of = [action for k, action, n in told if (k, n) == (kind, name)]
    expect(f"events of {kind}", (of[0], of[-1]), ("create", "remove"))
