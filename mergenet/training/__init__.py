"""One run: learners and transfers at work, the loop, evaluation, checkpoints and the record."""
