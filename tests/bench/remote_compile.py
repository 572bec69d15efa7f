"""A compile whose target is trained by the service at `<port>`, in the run folder `<folder>`: what `remote.py` kills."""
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
import dspy
from sorting import Sort, examples, knows, same_kind

from bsft_nb import BootstrapFinetune
from bsft_nb.launchers import remote
from bsft_nb.lessons import teacher_lm


def compiled(port: str, folder: str, **more):
    "The compiled program."
    remote.PAUSE = 0.2
    tp = BootstrapFinetune(same_kind, teacher_settings=dict(lm=teacher_lm(knows)), **more.pop("made", {}))
    target = dspy.LM("openai/gpt-small", api_key="secret-key", api_base=f"http://127.0.0.1:{port}/v1", num_retries=0)
    return tp, tp.compile(dspy.Predict(Sort), trainset=examples(30, 0), target=target, run_dir=folder, display=False, **more)


if __name__ == "__main__":
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    compiled(*sys.argv[1:3])
