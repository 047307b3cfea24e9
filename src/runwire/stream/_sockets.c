/* Many sends by one call, or by a thread of their own: an event for thousands of clients costs little beyond the kernel's
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

typedef struct {
    PyObject_HEAD
    int descriptor;
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

/* ------------------------------------------------------------------ what is sent */

struct sending {
    PyObject *piece, *client;
    Socket *socket;
    Py_ssize_t at, taken;
};

struct job {
    struct sending *all;
    Py_ssize_t count;
};

static void job_clear(struct job *job) {
    for (Py_ssize_t n = 0; n < job->count; n++) {
        Py_DECREF(job->all[n].piece);
        Py_DECREF(job->all[n].client);
        Py_DECREF(job->all[n].socket);
    }
    PyMem_Free(job->all);
    *job = (struct job){0};
}

/* Holds on to all that is sent: it stays as it is now, whatever becomes of lists and dictionaries meanwhile. */
static int job_fill(struct job *job, PyObject *const *arguments, Py_ssize_t argument_count) {
    *job = (struct job){0};
    if (argument_count != 2 || !PyList_CheckExact(arguments[0]) || !PyList_CheckExact(arguments[1]) ||
        PyList_GET_SIZE(arguments[0]) != PyList_GET_SIZE(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "pieces and clients are two lists of the same length");
        return -1;
    }
    PyObject *pieces = arguments[0], *clients = arguments[1];
    Py_ssize_t total = 0;
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(pieces); at++) {
        if (!PyBytes_CheckExact(PyList_GET_ITEM(pieces, at)) || !PyDict_CheckExact(PyList_GET_ITEM(clients, at))) {
            PyErr_SetString(PyExc_TypeError, "a piece is bytes, and its clients are a dictionary");
            return -1;
        }
        total += PyDict_GET_SIZE(PyList_GET_ITEM(clients, at));
    }
    job->all = PyMem_New(struct sending, total ? total : 1);
    if (!job->all) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(pieces); at++) {
        PyObject *client, *socket;
        Py_ssize_t next = 0;
        while (PyDict_Next(PyList_GET_ITEM(clients, at), &next, &client, &socket)) {
            if (!Py_IS_TYPE(socket, socket_type)) {
                PyErr_SetString(PyExc_TypeError, "what is sent to has to be a Socket");
                job_clear(job);
                return -1;
            }
            job->all[job->count++] = (struct sending){.piece = Py_NewRef(PyList_GET_ITEM(pieces, at)),
                                                      .client = Py_NewRef(client),
                                                      .socket = (Socket *)Py_NewRef(socket),
                                                      .at = at};
        }
    }
    return 0;
}

/* Needs nothing of Python's. An error is met again by whoever writes there next. */
static void job_send(struct job *job) {
    for (struct sending *one = job->all; one < job->all + job->count; one++) {
        if (atomic_load(&one->socket->full)) continue;
        Py_ssize_t size = PyBytes_GET_SIZE(one->piece);
        ssize_t taken = send(one->socket->descriptor, PyBytes_AS_STRING(one->piece), (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
        one->taken = taken < 0 ? 0 : taken;
        if (taken != size) atomic_store(&one->socket->full, 1);
    }
}

/* What was not taken as a whole; the job is over then. */
static PyObject *job_result(struct job *job) {
    PyObject *short_of = PyList_New(0);
    for (Py_ssize_t n = 0; short_of && n < job->count; n++) {
        struct sending *one = &job->all[n];
        if (one->taken == PyBytes_GET_SIZE(one->piece)) continue;
        PyObject *told = Py_BuildValue("(nOn)", one->at, one->client, one->taken);
        if (!told || PyList_Append(short_of, told) < 0) Py_CLEAR(short_of);
        Py_XDECREF(told);
    }
    job_clear(job);
    return short_of;
}

static PyObject *send_each(PyObject *module, PyObject *const *arguments, Py_ssize_t argument_count) {
    (void)module;
    struct job job;
    if (job_fill(&job, arguments, argument_count) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    job_send(&job);
    Py_END_ALLOW_THREADS
    return job_result(&job);
}

/* ------------------------------------------------------------------ Sender */

enum { JOBS = 4 }; /* one is being sent, and the next is there when it is done */

typedef struct {
    PyObject_HEAD
    struct job jobs[JOBS]; /* by number, in a circle */
    unsigned long started, sent, finished;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int closing, running, wake; /* `wake` can be polled: it is readable when something has been sent */
    pid_t process;              /* whose thread it is: a process that was forked has none */
} Sender;

static void *sender_run(void *argument) {
    Sender *self = argument;
    pthread_mutex_lock(&self->lock);
    while (!self->closing) {
        if (self->sent == self->started) {
            pthread_cond_wait(&self->changed, &self->lock);
            continue;
        }
        struct job *job = &self->jobs[self->sent % JOBS];
        pthread_mutex_unlock(&self->lock);
        job_send(job);
        pthread_mutex_lock(&self->lock);
        self->sent++;
        pthread_cond_broadcast(&self->changed);
        eventfd_write(self->wake, 1);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

static PyObject *sender_new(PyTypeObject *type, PyObject *arguments, PyObject *named) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "", names)) return NULL;
    Sender *self = (Sender *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->changed, NULL);
    self->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (self->wake >= 0) {
        /* Signals are the interpreter's. */
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int failed = pthread_create(&self->thread, NULL, sender_run, self);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        self->running = !failed;
        self->process = getpid();
        errno = failed;
    }
    if (!self->running) {
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
        pthread_mutex_lock(&self->lock);
        self->closing = 1;
        pthread_cond_broadcast(&self->changed);
        pthread_mutex_unlock(&self->lock);
        pthread_join(self->thread, NULL);
        Py_END_ALLOW_THREADS
    }
    self->running = 0;
    if (self->wake >= 0) close(self->wake);
    self->wake = -1;
    while (self->finished < self->started) job_clear(&self->jobs[self->finished++ % JOBS]);
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

static PyObject *sender_start(Sender *self, PyObject *const *arguments, Py_ssize_t argument_count) {
    if (!self->running || self->started - self->finished == JOBS) {
        PyErr_SetString(PyExc_RuntimeError, self->running ? "enough is under way" : "the sender is closed");
        return NULL;
    }
    if (job_fill(&self->jobs[self->started % JOBS], arguments, argument_count) < 0) return NULL;
    pthread_mutex_lock(&self->lock);
    self->started++;
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
    return job_result(&self->jobs[self->finished++ % JOBS]);
}

static PyObject *sender_fileno(Sender *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(self->wake);
}

static PyMethodDef sender_methods[] = {
    {"start", (PyCFunction)(void (*)(void))sender_start, METH_FASTCALL,
     PyDoc_STR("start(pieces, clients, /)\n--\n\nHas the thread do what send_each does; _sockets.pyi says more.")},
    {"sent", (PyCFunction)sender_sent, METH_NOARGS,
     PyDoc_STR("sent()\n--\n\nHow often `finish` would not wait.")},
    {"finish", (PyCFunction)sender_finish, METH_NOARGS,
     PyDoc_STR("finish()\n--\n\nWhat send_each would have returned, when it is done.")},
    {"fileno", (PyCFunction)sender_fileno, METH_NOARGS,
     PyDoc_STR("fileno()\n--\n\nReadable when something was sent since `sent` was asked last.")},
    {"close", (PyCFunction)sender_close, METH_NOARGS, PyDoc_STR("close()\n--\n\nEnds the thread.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sender_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Sender()\n--\n\nA thread that sends; _sockets.pyi says more.")},
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

static PyMethodDef methods[] = {
    {"send_each", (PyCFunction)(void (*)(void))send_each, METH_FASTCALL,
     PyDoc_STR("send_each(pieces, clients, /)\n--\n\nSends each piece to its clients; _sockets.pyi says more.")},
    {NULL, NULL, 0, NULL},
};

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
    PyModuleDef_HEAD_INIT, .m_name = "_sockets", .m_doc = "Many sends by one call.", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__sockets(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && (add_type(module, &socket_spec, &socket_type) < 0 || add_type(module, &sender_spec, NULL) < 0 ||
                   PyModule_AddIntConstant(module, "JOBS", JOBS) < 0))
        Py_CLEAR(module);
    return module;
}
