import threading

from workbench.notebook.pump import Pump


def test_the_newest_update_of_a_key_runs_once():
    pump, ran = Pump(), []
    for i in range(3):
        pump.put("a", lambda i=i: ran.append(("a", i)))
    pump.put("b", lambda: ran.append(("b", 0)))
    pump.beat()
    pump.beat()
    assert ran == [("a", 2), ("b", 0)]


def test_what_runs_every_beat_runs_first():
    ran = []
    pump = Pump(lambda: ran.append("every"))
    pump.put("a", lambda: ran.append("a"))
    pump.beat()
    pump.beat()
    assert ran == ["every", "a", "every"]


def test_a_fault_is_reported_once_and_stops_nothing(capsys):
    def fail():
        raise ValueError("no widget")

    ran = []
    pump = Pump(fail)
    for _ in range(3):
        pump.put("bad", fail)
        pump.put("good", lambda: ran.append(1))
        pump.beat()
    said = capsys.readouterr().err
    assert ran == [1, 1, 1]
    assert said.count("no widget") == 2  # once as `every`, once as `bad`


def test_one_daemon_thread_runs_everything_and_ends(eventually):
    threads = set()
    pump = Pump(lambda: threads.add(threading.current_thread()), hz=500)
    pump.start()
    pump.put("a", lambda: threads.add(threading.current_thread()))
    (thread,) = eventually(lambda: threads)
    assert thread.daemon and thread is not threading.current_thread()
    pump.stop()
    assert pump.stopped and not thread.is_alive()
    pump.stop()


def test_it_can_be_stopped_from_its_own_thread(eventually):
    pump = Pump(lambda: pump.stop(), hz=500)
    pump.start()
    assert eventually(lambda: not pump._thread.is_alive())


def test_stopping_before_starting_is_harmless():
    Pump().stop()
