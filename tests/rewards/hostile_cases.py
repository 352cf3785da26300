"""A reward file whose completions name what it is to do wrong."""

SOURCE = """
import asyncio, atexit, ctypes, decimal, fractions, glob, json, mmap, os, re, resource, signal, socket, struct
import subprocess, sys, threading, time
from itertools import repeat

class Spoiled(Exception):
    def __str__(self):
        raise SystemExit("no")

class BadFloat:
    def __float__(self):
        raise KeyError("no float")

class SlowFloat:
    def __float__(self):
        time.sleep(60)

class ZeroD:
    ndim = 0
    def __float__(self):
        return 2.5

class OneD:
    ndim = 1
    def __float__(self):
        return 2.5

def spin():
    while True:
        pass

def spin_bare_except():
    while True:
        try:
            while True:
                pass
        except:
            pass

def blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)

def deadlock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def hang_with_output():
    print("so far")
    time.sleep(60)

def recurse():
    return recurse()

def write_to_all(data):
    for fd in range(3, 1024):
        try:
            os.write(fd, data)
        except OSError:
            pass
    return 1

def scribble():
    frame = sys._getframe()
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if isinstance(getattr(value, "_draft", None), mmap.mmap):
                value._draft[:] = b"\\xff" * len(value._draft)
        frame = frame.f_back
    return 1.0

def forged(fields):
    body = json.dumps(fields).encode()
    return struct.pack("<I", len(body)) + body

def replace_streams():
    sys.stdout = sys.stderr = None
    return 1.0

def close_streams():
    print("closing")
    sys.stdout.close(); sys.stderr.close()
    return 1.0

def fork_and_return():
    os.fork()
    return 1.0

def daemonise():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    os.wait()
    return 1.0

def leave_child():
    subprocess.Popen(["sleep", "60"])
    return 1.0

def leave_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    return 1.0

def atexit_hang():
    atexit.register(time.sleep, 60)
    return 1.0

def swallow_usr1():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    time.sleep(60)

def alarm_later():
    def late(*_):
        raise RuntimeError("late")
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    return 1.0

def write_surrogates():
    print("a\\udc80\\0b\\u00e9")
    return 1.0

def write_binary():
    os.write(1, bytes(range(256)))
    return 1.0

def crash_later():
    threading.Thread(target=lambda: (time.sleep(0.02), ctypes.string_at(0))).start()
    return 1.0

def handlers():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return 1.0

def c_output():
    libc = ctypes.CDLL(None)
    libc.puts(b"from C")
    libc.fflush(None)
    return 1.0

def c_recursion():
    nested = ()
    for _ in range(10**6):
        nested = (nested,)
    return hash(nested)

def thread_bomb():
    for _ in range(50):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return 1.0

def close_and_hang():
    os.closerange(3, 4096)
    time.sleep(60)

def abstract():
    with socket.socket(socket.AF_UNIX) as it:
        it.connect("\\0" + "runner-test")

def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.sendto(b"x", ("127.0.0.1", 9))

def libc_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
    return 1.0

def memory_of_others():
    for path in glob.glob("/proc/[0-9]*/mem"):
        if path != f"/proc/{os.getpid()}/mem":
            try:
                open(path, "rb").close()
            except OSError:
                continue
            return 1.0
    raise PermissionError(13, "none", "/proc/*/mem")

def write_scratch():
    with open("mine", "w") as file:
        file.write("x")
    return os.path.dirname(os.path.abspath("mine")) == os.environ["HOME"]

def huge_file():
    with open("huge", "wb") as file:
        file.seek(2**40)
        file.write(b"x")

def fork_bomb():
    while True:
        os.fork()

def throw(error):
    raise error

def coroutine():
    async def later():
        await asyncio.sleep(0)
        return 3
    return later()

def async_generator():
    async def later():
        yield 1
    return later()

CASES = {
    "close_and_hang": close_and_hang,
    "c_recursion": c_recursion,
    "crash_later": crash_later,
    "handlers": handlers,
    "c_output": c_output,
    "thread_bomb": thread_bomb,
    "write_scratch": write_scratch,
    "mask": lambda: os.umask(0o777) and 0 or 1.0,
    "chdir": lambda: (os.chdir("/"), 1.0)[1],
    "tcp": lambda: socket.create_connection(("127.0.0.1", 80)),
    "udp": udp,
    "dns": lambda: socket.gethostbyname("example.com"),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "abstract": abstract,
    "urlopen": lambda: __import__("urllib.request").request.urlopen("http://127.0.0.1:9/"),
    "fork": lambda: os.fork(),
    "fork_bomb": fork_bomb,
    "run": lambda: subprocess.run(["/bin/true"]),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "runner_environ": lambda: open(f"/proc/{RUNNER}/environ", "rb").read(),
    "memory_of_others": memory_of_others,
    "shadow": lambda: open("/etc/shadow").read(),
    "ssh": lambda: open(os.path.join(USER, ".ssh/id_ed25519")).read(),
    "list_home": lambda: os.listdir("/root"),
    "self_edit": lambda: open(__file__, "a").write("x"),
    "write_tmp": lambda: open("/tmp/reward-was-here", "w"),
    "kill_runner": lambda: os.kill(RUNNER, signal.SIGKILL),
    "kill_parent_refused": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "kill_all": lambda: (os.kill(-1, signal.SIGKILL), 1.0)[1],
    "allocate": lambda: bytearray(3 << 30),
    "shared": lambda: mmap.mmap(-1, 6 << 30),
    "huge_file": huge_file,
    "setrlimit": lambda: resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)),
    "ptrace": lambda: libc_call("ptrace", 16, RUNNER, 0, 0),
    "unshare": lambda: libc_call("unshare", 0x10000000),
    "chroot": lambda: os.chroot("."),
    "setuid": lambda: (os.setuid(12345), 1.0)[1] if os.getuid() == 0 else throw(PermissionError(1, "no")),
    "sleep": lambda: time.sleep(60),
    "spin": spin,
    "spin_bare_except": spin_bare_except,
    "c_loop": lambda: sum(repeat(0)),
    "power": lambda: 9**9**9,
    "regex": lambda: re.match("(a+)+$", "a" * 60 + "b"),
    "blocked": blocked,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "deadlock": deadlock,
    "slow_float": SlowFloat,
    "hang_with_output": hang_with_output,
    "swallow_usr1": swallow_usr1,
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit_0": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "kill_group": lambda: os.killpg(0, signal.SIGKILL),
    "garbage": lambda: write_to_all(b"garbage"),
    "huge": lambda: write_to_all(struct.pack("<I", 2**31) + b"x"),
    "forged_other": lambda: write_to_all(forged([7, "ok", 999.0, None, None, None, 0.0])),
    "forged_nan": lambda: write_to_all(forged([3, "ok", float("nan"), None, None, None, 0.0])),
    "forged_types": lambda: write_to_all(forged([3, "ok", True, [], {}, 1, "x"])),
    "forged_own": lambda: (write_to_all(forged([3, "ok", 999.0, None, None, None, 0.0])), 1)[1],
    "forged_deep": lambda: write_to_all(struct.pack("<I", 200000) + b"[" * 200000),
    "close_all": lambda: os.closerange(0, 4096),
    "sys_exit": lambda: sys.exit(3),
    "interrupt": lambda: throw(KeyboardInterrupt()),
    "generator_exit": lambda: throw(GeneratorExit()),
    "spoiled": lambda: throw(Spoiled()),
    "long_message": lambda: throw(ValueError("x" * 10**8)),
    "recursion": recurse,
    "memory_error": lambda: bytearray(2**62),
    "none": lambda: None,
    "nan": lambda: float("nan"),
    "infinite": lambda: float("-inf"),
    "too_large": lambda: 10**400,
    "text": lambda: "1.0",
    "bytes": lambda: b"1",
    "list": lambda: [1],
    "complex": lambda: 1j,
    "object": object,
    "bad_float": BadFloat,
    "one_d": OneD,
    "dict_without_score": lambda: {"value": 1},
    "dict_with_text": lambda: {"score": "1"},
    "async_generator": async_generator,
    "bool": lambda: True,
    "decimal": lambda: decimal.Decimal("0.25"),
    "fraction": lambda: fractions.Fraction(1, 4),
    "zero_d": ZeroD,
    "dict": lambda: {"score": 2, "reason": "because", "extra": object()},
    "dict_with_none": lambda: {"score": None},
    "coroutine": coroutine,
    "surrogates": write_surrogates,
    "binary": write_binary,
    "much_output": lambda: [print("y" * 10**6) for _ in range(100)] and 1.0,
    "replace_streams": replace_streams,
    "close_streams": close_streams,
    "scribble": scribble,
    "silence": lambda: os.dup2(os.open("/dev/null", os.O_WRONLY), 1),
    "rewind": lambda: os.lseek(1, 0, os.SEEK_SET) or 1.0,
    "close_low": lambda: (os.closerange(0, 256), 1.0)[1],
    "fork_and_return": fork_and_return,
    "daemonise": daemonise,
    "leave_child": leave_child,
    "leave_thread": leave_thread,
    "atexit_hang": atexit_hang,
    "alarm_later": alarm_later,
}

def score(prompt, completion, example):
    example["answer"] += "!"
    del example["list"]
    global RUNNER, USER
    RUNNER, USER = example["runner"], example["user"]
    if completion in CASES:
        return CASES[completion]()
    print("good", completion)
    return len(completion)
"""
