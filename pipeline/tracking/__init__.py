"""Everything that knows MLflow: a mirror of the trial ledger, and the model registry.

The ledger and the stages' output files are the record of what happened. The mirror is a pure
function of them: plain `Run` records in, the same MLflow runs out, however often it is called,
wherever it was interrupted, and whichever store it finds. So MLflow may be slow, down or deleted
without a trial waiting for it or a number getting lost.

    records.py   what there is to mirror
    store.py     which MLflow store, how it is opened, how its failures look
    cursor.py    what a store already holds, so that a sync sends only the rest
    mirror.py    records -> MLflow runs, each found or created once
    send.py      the values, files and status of one run
    model.py     a trained VAE as an MLflow model without pickle
    registry.py  model versions, `champion` and `challenger`

The functions import MLflow when they are called: the import takes seconds.
"""
