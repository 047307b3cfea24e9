/* Many sends in one call, or by threads: an event for thousands of clients costs little beyond the kernel's own part, and
 * the event loop goes on meanwhile.
 *
 * Thread ownership
 * ================
 *
 * Two kinds of threads run this code:
 *
 *   the loop thread     holds the interpreter's lock (GIL) whenever it enters; one at a time may use a Sender
 *   the sender threads  LANES of them per Sender, each with one lane; they never hold the GIL
 *
 * Calls, by thread:
 *
 *   loop thread only    every function that Python sees: Socket(), reopen, Batch(), add, Batch.send, Sender(), start,
 *                       sent, finish, fileno, close; every reference count; every allocation and deallocation;
 *                       batch_told, batch_result, shutdown
 *   sender thread only  worker_run
 *   both                lane_send, for a lane that the calling thread owns
 *
 * Owners of data:
 *
 *   a Batch             the loop thread until `start`. From then on each sender thread owns the lane with its number,
 *                       and writes only `taken` in it, until it has raised its `worker.sent`. When every lane is done
 *                       (`sender.sent` counts the batch) the loop thread owns the batch again: `finish` reads `taken`.
 *   bytes and sockets   a batch holds references, so neither is freed nor closed while a sender thread uses them. The
 *                       references are taken by `add` and dropped after `finish`, both by the loop thread.
 *   Socket.full         atomic. The sending thread sets it after a short send, and skips the socket while it is set.
 *                       Only the loop thread clears it (`reopen`), when the transport has sent the remainder and nothing
 *                       that was started before is under way.
 *   Socket.lane         fixed at creation. One socket is always in the same lane, so its bytes keep their order.
 *   Sender.jobs,        changed under `lock`, by the loop thread. Sender threads read them under `lock`.
 *     started, closing
 *   Sender.sent,        changed under `lock`, by sender threads.
 *     worker.sent
 *   Sender.finished,    the loop thread's alone; read without `lock`.
 *     running
 *   Sender.wake         an eventfd. Sender threads write to it; the loop thread polls, reads and closes it.
 *
 * A descriptor belongs to somebody else as soon as it is closed, and a thread cannot know when that is. So a Socket has a
 * duplicate descriptor of the same connection. It is closed with the last reference to the Socket; a batch holds one, and
 * a connection that is accepted meanwhile gets another number.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#ifndef __linux__
#error "written for Linux: other systems write by the event loop"
#endif

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* ------------------------------------------------------------------ Socket */

/* All sends to a connection are in one lane, and one thread works through a lane: so they keep their order. */
enum { LANES = 2 };

typedef struct {
    PyObject_HEAD
    int descriptor, lane;
    atomic_int full; /* a send was short: the socket takes nothing more until `reopen` */
} Socket;

static PyTypeObject *socket_type;

/* The system gives out the lowest free descriptor. The last quarter of them is for new connections. */
static int scarce(int descriptor) {
    struct rlimit files;
    return getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY &&
           (rlim_t)descriptor > files.rlim_cur / 4 * 3;
}

static PyObject *socket_new(PyTypeObject *type, PyObject *arguments, PyObject *named) {
    static char *names[] = {"", NULL};
    int given, of_what;
    socklen_t size = sizeof of_what;
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "i", names, &given)) return NULL;
    if (getsockopt(given, SOL_SOCKET, SO_TYPE, &of_what, &size) < 0) return PyErr_SetFromErrno(PyExc_OSError);
    Socket *self = (Socket *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    static unsigned made;
    self->lane = (int)(made++ % LANES);
    self->descriptor = fcntl(given, F_DUPFD_CLOEXEC, 0);
    if (self->descriptor >= 0 && scarce(self->descriptor)) {
        close(self->descriptor);
        self->descriptor = -1;
        errno = EMFILE;
    }
    if (self->descriptor < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void socket_dealloc(Socket *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->descriptor >= 0) close(self->descriptor);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *socket_reopen(Socket *self, PyObject *unused) {
    (void)unused;
    atomic_store(&self->full, 0);
    return Py_NewRef(self);
}

static PyMethodDef socket_methods[] = {
    {"reopen", (PyCFunction)socket_reopen, METH_NOARGS,
     PyDoc_STR("reopen()\n--\n\nLets the socket take pieces again; _sockets.pyi says more.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot socket_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Socket(descriptor, /)\n--\n\nA connection to send to; _sockets.pyi says more.")},
    {Py_tp_new, socket_new},
    {Py_tp_dealloc, socket_dealloc},
    {Py_tp_methods, socket_methods},
    {0, NULL},
};
static PyType_Spec socket_spec = {.name = "runwire.stream.fanout._sockets.Socket",
                                  .basicsize = sizeof(Socket),
                                  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                                  .slots = socket_slots};

/* ------------------------------------------------------------------ Batch */

struct sending {
    PyObject *whose, *client, *piece;
    Socket *socket;
    Py_ssize_t taken;
};

struct lane {
    struct sending *all;
    Py_ssize_t count, room;
};

typedef struct {
    PyObject_HEAD
    struct lane lanes[LANES];
    int over; /* it was started or sent */
} Batch;

static PyTypeObject *batch_type;

static struct sending *lane_next(struct lane *lane) {
    if (lane->count == lane->room) {
        Py_ssize_t room = lane->room ? lane->room * 2 : 64;
        struct sending *all = PyMem_Realloc(lane->all, (size_t)room * sizeof *all);
        if (!all) return NULL;
        lane->all = all;
        lane->room = room;
    }
    return &lane->all[lane->count];
}

static PyObject *batch_new(PyTypeObject *type, PyObject *arguments, PyObject *named) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "", names)) return NULL;
    return type->tp_alloc(type, 0);
}

static Py_ssize_t batch_length(Batch *self) {
    Py_ssize_t count = 0;
    for (int n = 0; n < LANES; n++) count += self->lanes[n].count;
    return count;
}

static void batch_clear(Batch *self, const Py_ssize_t keep[LANES]) {
    for (int n = 0; n < LANES; n++)
        for (struct lane *lane = &self->lanes[n]; lane->count > keep[n];) {
            struct sending one = lane->all[--lane->count];
            Py_DECREF(one.whose);
            Py_DECREF(one.client);
            Py_DECREF(one.piece);
            Py_DECREF(one.socket);
        }
}

static void batch_dealloc(Batch *self) {
    PyTypeObject *type = Py_TYPE(self);
    batch_clear(self, (Py_ssize_t[LANES]){0});
    for (int n = 0; n < LANES; n++) PyMem_Free(self->lanes[n].all);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Takes references, so that the batch stays as it is whatever becomes of the dictionary. */
static PyObject *batch_add(Batch *self, PyObject *const *arguments, Py_ssize_t argument_count) {
    if (argument_count != 3 || !PyBytes_CheckExact(arguments[1]) || !PyDict_CheckExact(arguments[2])) {
        PyErr_SetString(PyExc_TypeError, "add(whose, piece, clients) takes an object, bytes and a dictionary");
        return NULL;
    }
    if (self->over) {
        PyErr_SetString(PyExc_RuntimeError, "the batch was started or sent before");
        return NULL;
    }
    PyObject *client, *socket;
    Py_ssize_t next = 0, before[LANES];
    for (int n = 0; n < LANES; n++) before[n] = self->lanes[n].count;
    while (PyDict_Next(arguments[2], &next, &client, &socket)) {
        struct sending *one = NULL;
        if (!Py_IS_TYPE(socket, socket_type)) PyErr_SetString(PyExc_TypeError, "clients must map to Socket objects");
        else if (!(one = lane_next(&self->lanes[((Socket *)socket)->lane]))) PyErr_NoMemory();
        if (!one) {
            batch_clear(self, before);
            return NULL;
        }
        *one = (struct sending){.whose = Py_NewRef(arguments[0]),
                                .client = Py_NewRef(client),
                                .piece = Py_NewRef(arguments[1]),
                                .socket = (Socket *)Py_NewRef(socket)};
        self->lanes[((Socket *)socket)->lane].count++;
    }
    Py_RETURN_NONE;
}

/* Runs without the GIL. An error counts as a short send: the next writer meets it again. */
static void lane_send(struct lane *lane) {
    for (struct sending *one = lane->all; one < lane->all + lane->count; one++) {
        if (atomic_load(&one->socket->full)) continue;
        Py_ssize_t size = PyBytes_GET_SIZE(one->piece);
        ssize_t taken = send(one->socket->descriptor, PyBytes_AS_STRING(one->piece), (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
        one->taken = taken < 0 ? 0 : taken;
        if (taken != size) atomic_store(&one->socket->full, 1);
    }
}

static PyObject *told_of(const struct sending *one) {
    if (!one->taken) return PyTuple_Pack(3, one->whose, one->client, one->piece); /* shared by all clients that took nothing */
    Py_ssize_t left = PyBytes_GET_SIZE(one->piece) - one->taken;
    return Py_BuildValue("(OOy#)", one->whose, one->client, PyBytes_AS_STRING(one->piece) + one->taken, left);
}

/* Each short send: whose, client, rest. */
static PyObject *batch_told(Batch *self) {
    PyObject *short_of = PyList_New(0);
    for (int n = 0; n < LANES; n++)
        for (Py_ssize_t at = 0; short_of && at < self->lanes[n].count; at++) {
            struct sending *one = &self->lanes[n].all[at];
            if (one->taken == PyBytes_GET_SIZE(one->piece)) continue;
            PyObject *told = told_of(one);
            if (!told || PyList_Append(short_of, told) < 0) Py_CLEAR(short_of);
            Py_XDECREF(told);
        }
    return short_of;
}

/* Without memory for the list, ends the connections with short sends: their clients reconnect at their cursors, so none
 * goes on behind a gap. */
static PyObject *batch_result(Batch *self) {
    PyObject *short_of = batch_told(self);
    for (int n = 0; n < LANES && !short_of; n++)
        for (struct sending *one = self->lanes[n].all; one < self->lanes[n].all + self->lanes[n].count; one++)
            if (one->taken != PyBytes_GET_SIZE(one->piece)) shutdown(one->socket->descriptor, SHUT_RDWR);
    batch_clear(self, (Py_ssize_t[LANES]){0});
    return short_of;
}

static PyObject *batch_send(Batch *self, PyObject *unused) {
    (void)unused;
    if (self->over) {
        PyErr_SetString(PyExc_RuntimeError, "the batch was started or sent before");
        return NULL;
    }
    self->over = 1;
    Py_BEGIN_ALLOW_THREADS
    for (int n = 0; n < LANES; n++) lane_send(&self->lanes[n]);
    Py_END_ALLOW_THREADS
    return batch_result(self);
}

static PyMethodDef batch_methods[] = {
    {"add", (PyCFunction)(void (*)(void))batch_add, METH_FASTCALL,
     PyDoc_STR("add(whose, piece, clients, /)\n--\n\nAdds a send of the piece to each client; _sockets.pyi says more.")},
    {"send", (PyCFunction)batch_send, METH_NOARGS,
     PyDoc_STR("send()\n--\n\nSends everything and returns the short sends; _sockets.pyi says more.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Batch()\n--\n\nPieces, each for some connections; _sockets.pyi says more.")},
    {Py_tp_new, batch_new},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_methods, batch_methods},
    {Py_sq_length, batch_length},
    {0, NULL},
};
static PyType_Spec batch_spec = {.name = "runwire.stream.fanout._sockets.Batch",
                                 .basicsize = sizeof(Batch),
                                 .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                                 .slots = batch_slots};

/* ------------------------------------------------------------------ Sender */

enum { JOBS = 4 }; /* one is being sent, and the next one is there when it is done */

typedef struct Sender Sender;

/* There is more than one: while one waits for a processor the other goes on. */
struct worker {
    Sender *sender;
    int lane;
    unsigned long sent;
    pthread_t thread;
};

struct Sender {
    PyObject_HEAD
    Batch *jobs[JOBS]; /* a ring, by number */
    unsigned long started, sent, finished; /* numbers of batches; `sent`: by every lane */
    struct worker workers[LANES];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int closing, running, wake; /* `wake` is readable when a batch was sent */
    pid_t process;              /* the process that has the threads: a forked child has none */
};

static void *worker_run(void *argument) {
    struct worker *worker = argument;
    Sender *self = worker->sender;
    pthread_mutex_lock(&self->lock);
    while (!self->closing) {
        if (worker->sent == self->started) {
            pthread_cond_wait(&self->changed, &self->lock);
            continue;
        }
        Batch *job = self->jobs[worker->sent % JOBS];
        pthread_mutex_unlock(&self->lock);
        lane_send(&job->lanes[worker->lane]);
        pthread_mutex_lock(&self->lock);
        unsigned long least = ++worker->sent;
        for (int n = 0; n < LANES; n++)
            if (self->workers[n].sent < least) least = self->workers[n].sent;
        if (least == self->sent) continue; /* another lane is not done */
        self->sent = least;
        pthread_cond_broadcast(&self->changed);
        eventfd_write(self->wake, 1);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

static void sender_end(Sender *self) {
    pthread_mutex_lock(&self->lock);
    self->closing = 1;
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    while (self->running) pthread_join(self->workers[--self->running].thread, NULL);
}

static PyObject *sender_new(PyTypeObject *type, PyObject *arguments, PyObject *named) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "", names)) return NULL;
    Sender *self = (Sender *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->changed, NULL);
    self->process = getpid();
    self->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int failed = self->wake < 0 ? errno : 0;
    /* Signals go to the interpreter's threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int n = 0; n < LANES && !failed; n++) {
        self->workers[n] = (struct worker){.sender = self, .lane = n};
        failed = pthread_create(&self->workers[n].thread, NULL, worker_run, &self->workers[n]);
        self->running += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        errno = failed;
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *sender_close(Sender *self, PyObject *unused) {
    (void)unused;
    if (self->running && self->process == getpid()) {
        Py_BEGIN_ALLOW_THREADS
        sender_end(self);
        Py_END_ALLOW_THREADS
    }
    self->running = 0;
    if (self->wake >= 0) close(self->wake);
    self->wake = -1;
    while (self->finished < self->started) {
        Batch *job = self->jobs[self->finished % JOBS];
        self->jobs[self->finished++ % JOBS] = NULL;
        Py_DECREF(job);
    }
    self->sent = self->finished;
    Py_RETURN_NONE;
}

static void sender_dealloc(Sender *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(sender_close(self, NULL));
    if (self->process == getpid()) {
        pthread_cond_destroy(&self->changed);
        pthread_mutex_destroy(&self->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *sender_start(Sender *self, PyObject *batch) {
    if (!Py_IS_TYPE(batch, batch_type)) {
        PyErr_SetString(PyExc_TypeError, "start(batch) takes a Batch");
        return NULL;
    }
    if (!self->running || self->started - self->finished == JOBS || ((Batch *)batch)->over) {
        PyErr_SetString(PyExc_RuntimeError, !self->running          ? "the sender is closed"
                                            : ((Batch *)batch)->over ? "the batch was started or sent before"
                                                                     : "JOBS batches are under way");
        return NULL;
    }
    ((Batch *)batch)->over = 1;
    pthread_mutex_lock(&self->lock);
    self->jobs[self->started++ % JOBS] = (Batch *)Py_NewRef(batch);
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    Py_RETURN_NONE;
}

static PyObject *sender_sent(Sender *self, PyObject *unused) {
    (void)unused;
    eventfd_t told;
    if (!self->running) return PyLong_FromLong(0);
    eventfd_read(self->wake, &told);
    pthread_mutex_lock(&self->lock);
    unsigned long sent = self->sent - self->finished;
    pthread_mutex_unlock(&self->lock);
    return PyLong_FromUnsignedLong(sent);
}

static PyObject *sender_finish(Sender *self, PyObject *unused) {
    (void)unused;
    if (self->finished == self->started) {
        PyErr_SetString(PyExc_RuntimeError, "nothing was started");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&self->lock);
    while (self->sent == self->finished) pthread_cond_wait(&self->changed, &self->lock);
    pthread_mutex_unlock(&self->lock);
    Py_END_ALLOW_THREADS
    Batch *job = self->jobs[self->finished % JOBS];
    self->jobs[self->finished++ % JOBS] = NULL;
    PyObject *result = batch_result(job);
    Py_DECREF(job);
    return result;
}

static PyObject *sender_fileno(Sender *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(self->wake);
}

static PyMethodDef sender_methods[] = {
    {"start", (PyCFunction)sender_start, METH_O,
     PyDoc_STR("start(batch, /)\n--\n\nSends the batch by the threads; _sockets.pyi says more.")},
    {"sent", (PyCFunction)sender_sent, METH_NOARGS,
     PyDoc_STR("sent()\n--\n\nNumber of batches that `finish` need not wait for.")},
    {"finish", (PyCFunction)sender_finish, METH_NOARGS,
     PyDoc_STR("finish()\n--\n\nWaits for the oldest batch and returns its short sends.")},
    {"fileno", (PyCFunction)sender_fileno, METH_NOARGS,
     PyDoc_STR("fileno()\n--\n\nA descriptor that is readable when a batch was sent since the last `sent`.")},
    {"close", (PyCFunction)sender_close, METH_NOARGS, PyDoc_STR("close()\n--\n\nEnds the threads.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sender_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Sender()\n--\n\nThreads that send; _sockets.pyi says more.")},
    {Py_tp_new, sender_new},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_methods, sender_methods},
    {0, NULL},
};
static PyType_Spec sender_spec = {.name = "runwire.stream.fanout._sockets.Sender",
                                  .basicsize = sizeof(Sender),
                                  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                                  .slots = sender_slots};

/* ------------------------------------------------------------------ the module */

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept) {
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(spec);
    if (!type || PyModule_AddType(module, type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    if (kept) *kept = type;
    else Py_DECREF(type);
    return 0;
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_sockets", .m_doc = "Many sends by one call.", .m_size = -1};

PyMODINIT_FUNC PyInit__sockets(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && (add_type(module, &socket_spec, &socket_type) < 0 || add_type(module, &batch_spec, &batch_type) < 0 ||
                   add_type(module, &sender_spec, NULL) < 0 ||
                   PyModule_AddIntConstant(module, "JOBS", JOBS) < 0))
        Py_CLEAR(module);
    return module;
}
