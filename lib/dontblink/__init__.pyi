from dontblink.monitor.gaze import measure as measure
from dontblink.monitor.gaze import watch as watch
