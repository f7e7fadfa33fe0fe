"""Train cnn2 on the embedded sample over two nodes of different speed, then use it. Takes some ten seconds.

python examples/quickstart.py
"""

import tempfile

import bptcnn as bpt


def main() -> None:
    dataset = bpt.data.load()
    with tempfile.TemporaryDirectory() as folder:
        result = bpt.train(bpt.networks.cnn2(), dataset, nodes=[1.0, 0.5], threads=1, run_dir=f"{folder}/run")
        with bpt.load(result.run_dir) as model:
            accuracy = model.evaluate(dataset)
            first = model.predict(dataset.test.images[:5]).argmax(1)
    for node in result.summary.nodes:
        print(f"{node.name}: speed {node.speed}, trained {node.images} images")
    print(f"test accuracy {accuracy:.4f}; the first five images are of classes {first.tolist()}")
    assert accuracy >= 0.85


if __name__ == "__main__":
    main()
