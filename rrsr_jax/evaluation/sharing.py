"""Images of a test set, shared out among the devices of all processes."""

import concurrent.futures
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax

from rrsr_jax import processes


class Stopped(Exception):
    """The evaluation was asked to stop."""


def over_images(number: int, work: Callable[[int], Any], stop: Callable[[], bool] = bool) -> list[Any]:
    """`work(index)` of each of `number` images, in order, computed once each.

    Image i belongs to device i modulo their number. Within `work`, its device is JAX's default one; see `on_this_device`. A
    process with several devices calls `work` in a thread for each.

    Args:
      number: of images.
      work: from the number of an image to a JSON value; may raise `Stopped`.
      stop: asked before every image, in every process.

    Returns:
      What `work` has returned for each image, in every process the same.

    Raises:
      Stopped: `stop` returned True in one of the processes; raised in all.
    """
    devices, ended = jax.local_devices(), threading.Event()

    def share(place: int) -> tuple[dict[int, Any], bool]:
        """The images of one device, and whether it was asked to stop before their end."""
        found, first = {}, jax.process_index() * len(devices) + place
        try:
            with jax.default_device(devices[place]):
                for index in range(first, number, jax.device_count()):
                    if stop():
                        raise Stopped
                    if ended.is_set() or processes.told_stop():
                        return found, True
                    found[index] = work(index)
        except Stopped:
            processes.tell_stop()
            return found, True
        except BaseException:
            ended.set()
            raise
        return found, False

    if len(devices) == 1:
        shares = [share(0)]
    else:
        with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
            shares = list(pool.map(share, range(len(devices))))
    own = {index: value for found, _ in shares for index, value in found.items()}
    together = processes.gather([list(own.items()), any(stopped for _, stopped in shares)])
    if any(stopped for _, stopped in together):
        raise Stopped
    found = {index: value for items, _ in together for index, value in items}
    assert sorted(found) == list(range(number)), "every image once"
    return [json.loads(json.dumps(found[index])) for index in range(number)]


def on_this_device(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The default device's copy of arrays that are on all devices; other arrays as they are."""
    device = jax.config.jax_default_device or jax.local_devices()[0]  # pyright: ignore[reportAttributeAccessIssue]

    def copy(array):
        if isinstance(array, jax.Array) and len(array.sharding.device_set) > 1:
            return next(shard.data for shard in array.addressable_shards if shard.device == device)
        return array

    return jax.tree.map(copy, params)
