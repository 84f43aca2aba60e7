"""dontblink: does a reasoning VLM still look at the evidence while it writes its chain of thought?"""
