"""Episodes, the scheduler, the trace store and its ledger, and what traces say."""

from askesis.rollout.costs import Costs
from askesis.rollout.episode import Stage, run_episode
from askesis.rollout.ledger import Draw, Ledger, Step
from askesis.rollout.scheduler import Progress, Roller, TraceSink, group_specs
from askesis.rollout.session import EpisodeEnded, EpisodeOptions, EpisodeSession, Meter, turn_seed
from askesis.rollout.speakers import EngineSpeakers, EpisodeSpec, PolicySpeakers, Speaker, Speakers
from askesis.rollout.statistics import Summary, by_mode, metric, summarise, version_range, wilson
from askesis.rollout.store import StepSummary, TraceStore

__all__ = [
    "Costs",
    "Draw",
    "EngineSpeakers",
    "EpisodeEnded",
    "EpisodeOptions",
    "EpisodeSession",
    "EpisodeSpec",
    "Ledger",
    "Meter",
    "PolicySpeakers",
    "Progress",
    "Roller",
    "Speaker",
    "Speakers",
    "Stage",
    "Step",
    "StepSummary",
    "Summary",
    "TraceSink",
    "TraceStore",
    "by_mode",
    "group_specs",
    "metric",
    "run_episode",
    "summarise",
    "turn_seed",
    "version_range",
    "wilson",
]
