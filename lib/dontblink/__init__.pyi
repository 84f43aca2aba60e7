from dontblink.monitor.gaze import measure as measure
from dontblink.monitor.gaze import watch as watch
from dontblink.studies.risk import load_monitor as load_monitor
