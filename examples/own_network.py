"""A network of one's own, trained step by step in this process. Takes some ten seconds.

python examples/own_network.py
"""

import numpy as np

import bptcnn as bpt

BATCH, EPOCHS = 64, 4


def main() -> None:
    dataset = bpt.data.load()
    network = bpt.Network(
        input_shape=(28, 28, 1),
        layers=[
            bpt.Conv2D(24, 5, strides=2, padding="same", activation="relu"),
            bpt.Conv2D(48, 3, padding="valid", activation="relu"),
            bpt.MaxPool2D(2),
            bpt.Flatten(),
            bpt.Dense(64, activation="relu"),
            bpt.Dense(10),
        ],
        name="own",
    )
    images, labels = dataset.train.images, dataset.train.labels
    random = np.random.default_rng(0)
    with bpt.Model(network, batch_size=BATCH, seed=0) as model:
        for epoch in range(1, EPOCHS + 1):
            order = random.permutation(len(images))
            batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
            losses = [model.train_step(images[batch], labels[batch], lr=0.03, momentum=0.9) for batch in batches]
            accuracy = model.evaluate(dataset)
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}, test accuracy {accuracy:.4f}")
    assert accuracy >= 0.83


if __name__ == "__main__":
    main()
