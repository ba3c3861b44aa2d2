import asyncio, os, sys, time, json
from tests.bench.rig import booted
from tests.bench.processes import memory_mib
from tests.bench.cost import measured
from tests.scale.fan_out import Bystander, fan_out
from tests.integration.waiting import until
from perdure.ledger import Ledger
from perdure.kube.errors import ApiError


async def main(items, parallelism):
    async with booted() as rig:
        print("as pod", rig.as_in_a_pod, rig.directory, flush=True)
        await rig.kube.create("Namespace", "", {"metadata": {"name": "scale"}})

        async def there():
            try:
                await rig.kube.raw_get("/api/v1/namespaces/scale/serviceaccounts/default")
                return True
            except ApiError:
                return False

        await until(there)
        async with rig.operator() as operator, Bystander(rig.api, "scale") as seen:
            print("start rss", memory_mib(operator.pid), flush=True)
            async with measured(rig) as cost:
                begun = time.monotonic()
                made = await rig.kube.create("Workflow", "scale", fan_out(items, parallelism=parallelism))

                async def report():
                    while True:
                        await asyncio.sleep(10)
                        print(
                            f"{time.monotonic() - begun:6.1f} {memory_mib(operator.pid)} pods={len(seen.pods)} tasks={len(seen.tasks)} {seen.status.get('progress')} {seen.status.get('tasks')} {seen.status.get('message', '')[:80]} statuses={seen.statuses}",
                            flush=True,
                        )

                if os.environ.get("PYSPY"):
                    pass
                task = asyncio.create_task(report())
                ended = await seen.run_ended(within=60 + items / 2)
                secs = time.monotonic() - begun
                task.cancel()
            print(
                "ended",
                ended,
                secs,
                seen.status.get("phase"),
                seen.status.get("progress"),
                memory_mib(operator.pid),
            )
            print(json.dumps(cost.per_step(items)))
            print(
                "largest",
                seen.largest_status,
                "statuses",
                seen.statuses,
                "tasks",
                len(seen.tasks),
                "most ended",
                seen.most_ended_tasks,
                "twice",
                sum(len(u) > 1 for u in seen.pods.values()),
            )
            await asyncio.sleep(5)
            print("after", memory_mib(operator.pid), "tasks", len(seen.tasks))
            async with Ledger(rig.ledger_url, pool_size=2) as ledger:
                state = await ledger.load(made["metadata"]["uid"])
                print(
                    "outputs ok",
                    state.run.outputs == {"all": [{"n": i} for i in range(items)]},
                    "attempts",
                    sum(t.attempt for t in state.tasks.values()),
                )
            print(operator.tail()[-1500:])


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] != "0" else None))
