"""Where weights come from, what fits a network of them, and how its images are prepared.

A file may be a stranger's. What others have trained is downloaded.
"""
