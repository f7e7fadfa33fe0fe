"""Starts a run's agents, each over its transport, and owns the memory that they share."""

from collections.abc import Mapping, Sequence

from bptcnn.data import Dataset, Samples, order
from bptcnn.data.content import digest
from bptcnn.inner.tuning import Tuning
from bptcnn.memory import RunClock, SharedMemory, WeightBuffer
from bptcnn.networks import Network
from bptcnn.nodes import (
    AgentConfiguration,
    HostConfiguration,
    LocalConfiguration,
    LocalNode,
    Node,
    RemoteNode,
    SampleSource,
    SharedArray,
    Wire,
    choose_wire,
)
from bptcnn.nodes.optimizer_memory import OptimizerMemory
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.training.members import Member
from bptcnn.training.optimizer_states import OptimizerStates, hands_over
from bptcnn.training.requirements import MOST_JOINED, require_for_joining
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.settings import TrainSettings

_REPORT_SECONDS = 0.3  # nodes of this machine submit more often than the coordinator needs to hear of it


class Launcher:
    """The weight buffer, the samples where local nodes want them, the run's clock, and a new agent for any member."""

    def __init__(
        self,
        network: Network,
        settings: TrainSettings,
        members: Sequence[Member],
        dataset: Dataset,
        train: Samples,
        folder: RunFolder,
        tuning: Tuning,
        states: dict[str, OptimizerState],
    ) -> None:
        """Allocate; raise UserError where memory is too small. `train` are the dataset's training images to use.

        `states`: what the nodes' optimizers start from, by name, where a run goes on; the launcher takes them out.
        `tuning`: how local nodes compute their steps; hosts find out for themselves. `members` grow as nodes join.
        """
        self.network, self.settings, self.members = network, settings, list(members)
        self._dataset, self._train, self._folder, self._tuning = dataset, train, folder, tuning
        self._states = OptimizerStates(states)
        self._optimizers: dict[int, OptimizerMemory] = {}  # of local nodes
        self._shared: list[SharedMemory | WeightBuffer | OptimizerMemory | RunClock] = []
        self._samples: tuple[SharedArray, SharedArray] | None = None
        self._source: SampleSource | None = None
        self.buffer = WeightBuffer.create(network.size, len(members), MOST_JOINED)
        self._shared.append(self.buffer)
        try:
            for index, member in enumerate(members):
                if member.host is None:
                    self._make_memory(index)
            if self._optimizers:
                self._share()
            self.clock = RunClock()
            self._shared.append(self.clock)
            self.clock.start()
        except BaseException:
            self.close()
            raise

    @property
    def places(self) -> int:
        """The most members that there can be."""
        return self.buffer.layout.writers

    def make_room(self, index: int, member: Member) -> None:
        """Allocate what a node that joins needs, which takes time and may happen in any thread.

        Raise UserError where memory is too small, or descriptors do not suffice.
        """
        require_for_joining(self.network, self._train, self.settings, member, shares=self._samples is not None)
        self.buffer.admit(index)
        if member.host is None:
            self._make_memory(index)
        if member.host is None and self._samples is None:
            self._share()

    def _make_memory(self, index: int) -> None:
        if index not in self._optimizers:  # a node of this place was here before
            self._optimizers[index] = OptimizerMemory.create(self._velocity_size)
            self._shared.append(self._optimizers[index])

    @property
    def _velocity_size(self) -> int:
        return self.network.size if self.settings.momentum else 0

    def _share(self) -> None:
        shuffled = order(len(self._train), self.settings.seed)
        images, images_memory = SharedArray.put(self._train.images, "images", shuffled)
        self._shared.append(images_memory)
        labels, labels_memory = SharedArray.put(self._train.labels, "labels", shuffled)
        self._shared.append(labels_memory)
        self._samples = images, labels

    def start(self, index: int) -> Node:
        """Start the agent of node `index`; raise UserError where the system does not let us."""
        member = self.members[index]
        log = self._folder.log(member.name)
        state = self._states.start(member.name, fresh=not self.buffer.submission(index).sequence)
        if member.host is None:
            optimizer = self._optimizers[index]
            optimizer.put(state)
            self._states.forget(member.name)
            return LocalNode(self._local(index, member, state), log, optimizer)
        configuration = self._remote(index, member, state)
        about = member.host, configuration, self.buffer, self._dataset.train, log, member.options
        return RemoteNode(*about, state.velocity, member.bandwidth)

    def optimizer_states(self, nodes: Mapping[int, Node]) -> dict[str, OptimizerState]:
        """Return what a checkpoint keeps of the optimizers, where all live `nodes`, by index, are paused."""
        return self._states.at_cut({node.name: node.optimizer_state() for node in nodes.values()})

    def hands_over(self, member: Member) -> bool:
        """Return whether a member's optimizer state is in checkpoints: a host's where it costs little to send."""
        return member.host is None or hands_over(self._velocity_size, member.bandwidth)

    def _local(self, index: int, member: Member, state: OptimizerState) -> LocalConfiguration:
        assert self._samples is not None
        images, labels = self._samples
        return LocalConfiguration(
            **vars(self._common(index, member, state)),
            nodes=self.places,
            weights_fd=self.buffer.fd,
            images=images,
            labels=labels,
            optimizer_fd=self._optimizers[index].fd,
            clock_fd=self.clock.fd,
            cores=member.cores,
            tuning=self._tuning,
        )

    def _remote(self, index: int, member: Member, state: OptimizerState) -> HostConfiguration:
        return HostConfiguration(
            **vars(self._common(index, member, state)),
            samples=self._sample_source(),
            wire=self.wire(member),
            autotune=self.settings.autotune,
            hands_over=self.hands_over(member),
            restores=state.velocity is not None,
        )

    def wire(self, member: Member) -> Wire:
        """Return how weights travel to a host: as the settings say, else by its bandwidth."""
        if self.settings.wire is not None:
            return self.settings.wire
        return choose_wire(self.network.size, member.bandwidth or 0.0)  # unknown: as on a slow link

    def _common(self, index: int, member: Member, state: OptimizerState) -> AgentConfiguration:
        settings = self.settings
        return AgentConfiguration(
            node=index,
            name=member.name,
            speed=member.speed,
            threads=member.threads,
            network=self.network,
            batch_size=settings.batch_size,
            precision=settings.precision,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            update=settings.update,
            staleness=settings.staleness,
            report_seconds=0.0 if member.host else _REPORT_SECONDS,
            seed=settings.seed,
            first_step=state.step,
            usual_loss=state.usual_loss,
        )

    def _sample_source(self) -> SampleSource:
        if self._source is None:
            content = self._dataset.train
            self._source = SampleSource(
                digest(content),
                self._dataset.source,
                content.images.dtype.str,
                content.images.shape,
                self.settings.validation,
                self.settings.seed,
            )
        return self._source

    def close(self) -> None:
        """Free the memory; safe to call again."""
        for memory in self._shared:
            memory.close()
        self._shared.clear()
