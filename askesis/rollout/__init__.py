"""Episodes, the scheduler, the trace store and its ledger, and what traces say."""

from askesis.rollout.arguments import complaint
from askesis.rollout.costs import Costs
from askesis.rollout.episode import Stage, run_episode
from askesis.rollout.hosting import Answer, Ask, Host, HostClosed, Listener, Reception, Turn
from askesis.rollout.ledger import GIVEN_UP, Draw, Ledger, Open, Standing, Step
from askesis.rollout.pacing import Pace, Scheduler, Taken, oldest_version
from askesis.rollout.recorder import Recorder
from askesis.rollout.scheduler import Progress, Roll, Roller, TraceSink, group_specs
from askesis.rollout.scripted import plain_renderer, token_free
from askesis.rollout.session import EpisodeEnded, EpisodeOptions, EpisodeSession, Meter, turn_seed
from askesis.rollout.speakers import EngineSpeakers, EpisodeSpec, PolicySpeakers, Speaker, Speakers, scripted_completion
from askesis.rollout.statistics import Hybrid, Summary, by_mode, hybrid, metric, summarise, version_range, wilson
from askesis.rollout.store import Lengths, StepSummary, TraceStore
from askesis.rollout.tree import TokenTree

__all__ = [
    "GIVEN_UP",
    "Answer",
    "Ask",
    "Costs",
    "Draw",
    "EngineSpeakers",
    "EpisodeEnded",
    "EpisodeOptions",
    "EpisodeSession",
    "EpisodeSpec",
    "Host",
    "HostClosed",
    "Hybrid",
    "Ledger",
    "Lengths",
    "Listener",
    "Meter",
    "Open",
    "Pace",
    "PolicySpeakers",
    "Progress",
    "Reception",
    "Recorder",
    "Roll",
    "Roller",
    "Scheduler",
    "Speaker",
    "Speakers",
    "Stage",
    "Standing",
    "Step",
    "StepSummary",
    "Summary",
    "Taken",
    "TokenTree",
    "TraceSink",
    "TraceStore",
    "Turn",
    "by_mode",
    "complaint",
    "group_specs",
    "hybrid",
    "metric",
    "oldest_version",
    "plain_renderer",
    "run_episode",
    "scripted_completion",
    "summarise",
    "token_free",
    "turn_seed",
    "version_range",
    "wilson",
]
