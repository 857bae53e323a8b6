"""The broker: owns the sockets, the stored jobs and the assets, and keeps one worker process going.

It imports no engine and nothing of pictures, so it starts at once and outlives whatever a worker does. `server` is the
loop on the control socket, `transfer` a thread of its own for the data socket, `store` the jobs and their events on
disk, `assets` the files, `supervisor` the worker process, `models` the weights and the processes that fetch them; each
of these processes is a `child`. A worker is told to do a job by one line on its stdin, tells what happens by lines on
its stdout, and dies with the broker.
"""
