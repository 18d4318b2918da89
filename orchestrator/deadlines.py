"""How often the parts of a run look, how long they wait for a tool, the store or a word, and how long a person's command does.

Imports nothing. A wait after which something is decided about a run, a node or a process is a setting of the run, in
`config.RecoveryConfig`.
"""

from __future__ import annotations

# --- a worker -----------------------------------------------------------------------------------------------------------

BEAT_EVERY_S = 0.5
"""Between two signs of life of a worker that has nothing new to say."""
LEDGER_WRITTEN_EVERY_S = 1.0
"""Between two segments of the step ledger: what a killed worker may leave unrecorded."""
ARRIVAL_LOOKS_EVERY_S = 0.02
"""Between two looks of a worker that waits for a snapshot from another node."""
ARRIVAL_STALLS_S = 30.0
"""Without a byte of it: the worker does without. More than its agent waits, which gives up first, for a byte or for knowing whom to ask."""

# --- an agent, and the controller's link to it --------------------------------------------------------------------------

AGENT_LOOKS_EVERY_S = 0.5
"""Between two looks of an agent that has no workers when nothing happens."""
AGENT_LOOKS_AT_WORKERS_EVERY_S = 0.05
"""The same with workers: that one is ending shows in /proc alone."""
AGENT_LOOKS_AT_ORPHANS_EVERY_S = 0.02
"""The same while it kills what ended workers left behind: these end without a word to it."""
ATTENDED_GAP_S = 1.0
"""The longest time between two looks that counts as watched, more than any wait between two looks: see `attended`."""
REPORT_EVERY_S = 2.0
"""How old an agent's report without news may become, where workers may be silent for long."""
ASK_AGAIN_AFTER_S = 0.2
"""Between two questions to an agent that can't be reached."""
MIRROR_LOOKS_EVERY_S = 0.05
"""Between two looks of an agent for snapshots that are to be copied to another node."""
MIRROR_STALLS_S = 10.0
"""Without a byte or a word of the other node: a copy is given up, and workers wait for it no longer."""
ARRIVAL_BEATS_WITHIN_S = 20.0
"""Between two signs of a snapshot that comes back: after that the agent leaves the file alone, before its worker waits no longer."""
MIRROR_ACCEPTS_AGAIN_AFTER_S = 0.1
"""After a connection of another node's agent that could not be accepted."""
MIRROR_TRIES_AGAIN_AFTER_S = 2.0
"""Between two tries to reach an agent that copies of snapshots are kept by."""
BUDDY_KNOWN_WITHIN_S = 20.0
"""From the start of an attempt's workers on a node to its agent's knowing where copies of their snapshots are: their keeper tells it."""
FENCE_LOOK_EVERY_S = 1.0
"""Between two looks of an agent whether anybody is left to obey."""
GPUS_ASKED_WITHIN_S = 10.0
"""For nvidia-smi to name the GPUs of a node; they go without names else."""
TELEMETRY_EVERY_S = 1.0
"""Between two looks of an agent at its node's hardware."""
NODE_LOOKS_EVERY_S = 0.5
"""Between two looks of what holds a node's processes, where nothing is told to it."""
NODE_LINGERS_S = 2.0
"""For the agents of a node that is about to end to upload the rest of their workers' logs, and to tell how these ended."""
NODES_LISTED_EVERY_S = 1.0
"""Between two questions to Ray for its nodes and their free GPUs."""

# --- the controller -----------------------------------------------------------------------------------------------------

POLL_S = 0.2
"""How long the controller waits for news before it looks at its timers."""
CLOSE_POLL_S = 0.05
"""How long the controller waits for news while the run's last agents end."""
JOURNAL_RETRY_S = 1.0
"""Between two tries to write an entry while the store is away."""
REGISTRY_READ_EVERY_S = 10.0
"""How old the standings of machines may become, and how long a finding waits for the next try while the store is away."""
REGISTRY_READ_WITHIN_S = 5.0
"""For the first reading. Longer than that no run waits: machines that are cordoned are left once it is known."""
FINDINGS_WRITTEN_WITHIN_S = 5.0
"""For the findings of a run that has just ended to be written."""
REOPEN_AFTER_S = 2.0
"""Before the first new try to open a run, or the first new process after a crash; doubles with each further one."""
REOPEN_WITHIN_S = 300.0
"""The longest wait between two tries to open a run."""
ANSWER_WITHIN_S = 20.0
"""How long a question waits for a controller that is still reading its journal."""
STATUS_WITHIN_S = 2.0
"""How long a question for the status waits for such a controller: the one who asks has the store to look at too."""
LOG_WITHIN_S = 5.0
"""For an agent to read a piece of a live log."""
LEAVES_WITHIN_S = 10.0
"""For Ray to end the process of a controller that is done."""

# --- alerts, in the controller's process --------------------------------------------------------------------------------

ALERTS_LOOK_EVERY_S = 1.0
"""Between two looks at a run for something to wake a person for."""
ALERT_STORE_WITHIN_S = 10.0
"""How long a write to the outbox is tried, before it is tried again at another look."""
ALERTS_UNWRITTEN_FOR_S = 20.0
"""News that could not be recorded for so long is sent nevertheless: the store itself is the trouble."""
ALERT_ANSWERED_WITHIN_S = 10.0
"""For a receiver's answer."""
ALERT_COMMAND_WITHIN_S = 30.0
"""For a receiver that is a command."""
ALERT_RETRY_S = 2.0
"""Before the first new try of a receiver that took nothing; doubles with each further one."""
ALERT_RETRY_LIMIT_S = 300.0
ALERTS_SENT_WITHIN_S = 8.0
"""For what is to be said of the end of a run, before the controller's process ends: CONTROLLER_LEAVES_WITHIN_S is longer."""

ACCOUNT_READ_EVERY_S = 60.0
"""Between two readings of where the run's time went."""
METRICS_MADE_EVERY_S = 1.0
"""How old what a scrape gets may be."""
METRICS_ANSWER_WITHIN_S = 10.0
"""For a scraper to say what it wants, and to take it."""
METRICS_PORT_TRIED_EVERY_S = 30.0
"""Between two tries to listen on a port that another process has."""

# --- a person's end -----------------------------------------------------------------------------------------------------

CONNECT_WITHIN_S = 3.0
"""For the head of a Ray cluster to accept a connection."""
JOINED_WITHIN_S = 40.0
"""For a process that tries to join a Ray cluster: where Ray's files are gone, Ray looks for them for 15 seconds."""
CONTROLLER_STARTS_WITHIN_S = 60.0
"""For a new controller's first word: its process imports braid and reads the journal."""
CONTROLLER_LEAVES_WITHIN_S = 15.0
"""For the controller of a run that has just ended to be gone."""
LOCAL_CLUSTER_STARTS_WITHIN_S = 120.0
"""For every node of a local cluster to be up."""
PROCESSES_GONE_WITHIN_S = 10.0
"""For the processes of a local cluster to end after SIGKILL, before the command says that they are stuck in the kernel."""
