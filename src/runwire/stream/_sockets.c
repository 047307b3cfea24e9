/* Many sends by one call, or by threads of their own: an event for thousands of clients costs little beyond the kernel's
 * own part, and the event loop goes on meanwhile.
 *
 * A descriptor is somebody else's as soon as it is closed, and a thread cannot know when that is. So a Socket has a
 * descriptor of its own for the same connection, which is closed when nobody has the Socket any more: what is being sent
 * holds on to it, and whoever is accepted meanwhile gets another number.
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

/* What is sent to a connection is in one lane, which one thread works through: so it is in order. */
enum { LANES = 2 };

typedef struct {
    PyObject_HEAD
    int descriptor, lane;
    atomic_int full; /* it took a part of something: what follows waits until that has its rest, and it is opened again */
} Socket;

static PyTypeObject *socket_type;

/* Descriptors are given out from the lowest on. Past three quarters of them the rest is for who is still to come. */
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
     PyDoc_STR("reopen()\n--\n\nHas it take something again; _sockets.pyi says more.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot socket_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Socket(descriptor, /)\n--\n\nA connection to send to; _sockets.pyi says more.")},
    {Py_tp_new, socket_new},
    {Py_tp_dealloc, socket_dealloc},
    {Py_tp_methods, socket_methods},
    {0, NULL},
};
static PyType_Spec socket_spec = {.name = "runwire.stream._sockets.Socket",
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
    int over; /* it is with a Sender, or was sent */
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

/* Holds on to all that is sent: it stays as it is now, whatever becomes of the dictionary meanwhile. */
static PyObject *batch_add(Batch *self, PyObject *const *arguments, Py_ssize_t argument_count) {
    if (argument_count != 3 || !PyBytes_CheckExact(arguments[1]) || !PyDict_CheckExact(arguments[2])) {
        PyErr_SetString(PyExc_TypeError, "add(whose, piece, clients): a piece is bytes, and its clients are a dictionary");
        return NULL;
    }
    if (self->over) {
        PyErr_SetString(PyExc_RuntimeError, "it has been given to be sent");
        return NULL;
    }
    PyObject *client, *socket;
    Py_ssize_t next = 0, before[LANES];
    for (int n = 0; n < LANES; n++) before[n] = self->lanes[n].count;
    while (PyDict_Next(arguments[2], &next, &client, &socket)) {
        struct sending *one = NULL;
        if (!Py_IS_TYPE(socket, socket_type)) PyErr_SetString(PyExc_TypeError, "what is sent to has to be a Socket");
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

/* Needs nothing of Python's. An error is met again by whoever writes there next. */
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
    if (!one->taken) return PyTuple_Pack(3, one->whose, one->client, one->piece); /* which may be many clients' */
    Py_ssize_t left = PyBytes_GET_SIZE(one->piece) - one->taken;
    return Py_BuildValue("(OOy#)", one->whose, one->client, PyBytes_AS_STRING(one->piece) + one->taken, left);
}

/* What was not taken as a whole, and by whom. */
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

/* Where memory is too short to tell, the connections of those who fell short end: they come back for what they lack, and
 * nobody goes on behind a gap. */
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
        PyErr_SetString(PyExc_RuntimeError, "it has been given to be sent");
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
     PyDoc_STR("add(whose, piece, clients, /)\n--\n\nHas the piece sent to them; _sockets.pyi says more.")},
    {"send", (PyCFunction)batch_send, METH_NOARGS,
     PyDoc_STR("send()\n--\n\nSends all of it, and says who fell short; _sockets.pyi says more.")},
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
static PyType_Spec batch_spec = {.name = "runwire.stream._sockets.Batch",
                                 .basicsize = sizeof(Batch),
                                 .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                                 .slots = batch_slots};

/* ------------------------------------------------------------------ Sender */

enum { JOBS = 4 }; /* one is being sent, and the next is there when it is done */

typedef struct Sender Sender;

/* There are two: while one is kept from its processor the other goes on. */
struct worker {
    Sender *sender;
    int lane;
    unsigned long sent;
    pthread_t thread;
};

struct Sender {
    PyObject_HEAD
    Batch *jobs[JOBS]; /* by number, in a circle */
    unsigned long started, sent, finished; /* `sent` by all of them */
    struct worker workers[LANES];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int closing, running, wake; /* `wake` can be polled: it is readable when something has been sent */
    pid_t process;              /* whose threads they are: a process that was forked has none */
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
        if (least == self->sent) continue; /* another is still at it */
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
    /* Signals are the interpreter's. */
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
        PyErr_SetString(PyExc_TypeError, "what is started is a Batch");
        return NULL;
    }
    if (!self->running || self->started - self->finished == JOBS || ((Batch *)batch)->over) {
        PyErr_SetString(PyExc_RuntimeError, !self->running          ? "the sender is closed"
                                            : ((Batch *)batch)->over ? "it has been given to be sent"
                                                                     : "enough is under way");
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
     PyDoc_STR("start(batch, /)\n--\n\nHas the threads do what its `send` does; _sockets.pyi says more.")},
    {"sent", (PyCFunction)sender_sent, METH_NOARGS,
     PyDoc_STR("sent()\n--\n\nHow often `finish` would not wait.")},
    {"finish", (PyCFunction)sender_finish, METH_NOARGS,
     PyDoc_STR("finish()\n--\n\nWhat `send` would have returned, when it is done.")},
    {"fileno", (PyCFunction)sender_fileno, METH_NOARGS,
     PyDoc_STR("fileno()\n--\n\nReadable when something was sent since `sent` was asked last.")},
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
static PyType_Spec sender_spec = {.name = "runwire.stream._sockets.Sender",
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
