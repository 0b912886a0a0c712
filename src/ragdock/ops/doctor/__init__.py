"""The doctor: checks that name what is wrong with a deployment, with evidence and the fix."""
