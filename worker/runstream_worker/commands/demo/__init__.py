"""`runstream demo`: one run, executed by a worker process, read by two readers that know nothing of each other.

With `--kill` there are two workers, and the one that executes the run is killed in the middle of a sentence.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import replace

from runstream.cli.exits import Exit
from runstream.cli.terminal import Output
from runstream_worker.commands.demo import kill, plain
from runstream_worker.commands.demo.stage import Stage
from runstream_worker.commands.demo.story import Story
from runstream_worker.commands.redis import session_redis


def run(args: argparse.Namespace) -> int:
    """Show it."""
    # A demonstration is for people, even in a pipe.
    output = replace(Output.choose(as_json=args.json), pretty=not args.json)
    story = Story(output)
    scene = kill if args.kill else plain
    with session_redis(args.redis or "", output) as redis, tempfile.TemporaryFile() as log:
        story.step("Redis", redis.about)
        args.redis = redis.url  # an error is to name it
        stage = Stage(story, redis, log, args.namespace)
        all_well = asyncio.run(scene.show(stage, args.prompt or scene.PROMPT))
    return Exit.OK if all_well else Exit.FAILED
