"""Examples from real video (`retake curate`), as stage 2 of Edit-by-Track and the data of Track2View have them.

`stretches` finds shots and what to take of them, `clips` makes two clips of one shot an example by a solve over both,
`multicamera` does so with two synchronised cameras, `journal` remembers what was done and why what was left out;
`commands` is `retake curate`.
"""
