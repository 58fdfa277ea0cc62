"""The same searches behind LitServe's dynamic batching, to compare with `edje serve`.

pip install litserve
python experiments/serving/litserve_api.py photos.edje photos 8127
python experiments/serving/load.py http://127.0.0.1:8127 --post --clients 1 16
"""

import sys
from typing import Any

import litserve

from edje import ImageIndex, Reranker
from edje.index.answers import Question


class SearchApi(litserve.LitAPI):
    """Batches of queries; one worker owns the index."""

    def __init__(self, index: str, reranker: str):
        super().__init__(max_batch_size=16, batch_timeout=0.005, api_path="/v1/search")
        self.names = index, reranker

    def setup(self, device: str) -> None:
        """Open the index."""
        index, reranker = self.names
        self.index = ImageIndex.open(index, Reranker.from_pretrained(reranker))
        self.index.search("a", k=2)

    def decode_request(self, request: dict[str, Any]) -> tuple[Question, int]:
        """The question in a request."""
        return Question(request["q"], int(request["k"])), int(request["top"])

    def batch(self, inputs: list[Any]) -> list[Any]:
        """A batch of requests."""
        return inputs

    def predict(self, asked: list[tuple[Question, int]]) -> list[Any]:
        """Both result lists of each question."""
        answers = self.index.answers([question for question, _ in asked])
        return [
            (answer.best(top), answer.first_stage(top))
            for answer, (_, top) in zip(answers, asked, strict=True)
        ]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """The single results."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """A result as JSON."""
        best, first = ([vars(hit) for hit in hits] for hits in output)
        return {"reranked": best, "first_stage": first}


if __name__ == "__main__":
    api = SearchApi(sys.argv[1], sys.argv[2])
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[3]), generate_client_file=False, log_level="warning"
    )
