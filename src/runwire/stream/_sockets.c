/* Many sends by one call: so that an event for thousands of clients costs little beyond the kernel's own part.
 *
 * A descriptor is somebody else's as soon as it is closed. A handle names the socket itself: beside its descriptor it has
 * the cookie, which the kernel gives to no other socket (socket(7), SO_COOKIE), and which is asked for before each send.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifndef SO_COOKIE
#error "sockets have no cookie here"
#endif

enum { DESCRIPTOR_BITS = 24, COOKIE_BITS = 39 };

static int cookie_of(int descriptor, uint64_t *cookie) {
    socklen_t size = sizeof *cookie;
    return getsockopt(descriptor, SOL_SOCKET, SO_COOKIE, cookie, &size);
}

static PyObject *handle(PyObject *module, PyObject *argument) {
    (void)module;
    uint64_t cookie;
    long descriptor = PyLong_AsLong(argument);
    if (descriptor == -1 && PyErr_Occurred()) return NULL;
    if (descriptor < 0 || descriptor >> DESCRIPTOR_BITS) {
        errno = EBADF;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (cookie_of((int)descriptor, &cookie) < 0) return PyErr_SetFromErrno(PyExc_OSError);
    if (cookie >> COOKIE_BITS) {
        errno = EOVERFLOW;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromUnsignedLongLong(cookie << DESCRIPTOR_BITS | (uint64_t)descriptor);
}

struct sending {
    PyObject *piece;
    unsigned long long socket;
    Py_ssize_t taken;
};

static Py_ssize_t sent(const struct sending *one) {
    int descriptor = (int)(one->socket & ((1u << DESCRIPTOR_BITS) - 1));
    uint64_t cookie;
    if (cookie_of(descriptor, &cookie) < 0 || cookie != one->socket >> DESCRIPTOR_BITS) return 0;
    ssize_t taken = send(descriptor, PyBytes_AS_STRING(one->piece), (size_t)PyBytes_GET_SIZE(one->piece),
                         MSG_DONTWAIT | MSG_NOSIGNAL);
    return taken < 0 ? 0 : taken;
}

static PyObject *send_each(PyObject *module, PyObject *const *arguments, Py_ssize_t argument_count) {
    (void)module;
    if (argument_count != 2 || !PyList_CheckExact(arguments[0]) || !PyList_CheckExact(arguments[1]) ||
        PyList_GET_SIZE(arguments[0]) != PyList_GET_SIZE(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "send_each(sockets, pieces) takes two lists of the same length");
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(arguments[0]), held = 0;
    struct sending *all = PyMem_New(struct sending, count ? count : 1);
    PyObject *short_of = PyList_New(0);
    if (!all || !short_of) {
        PyErr_NoMemory();
        goto failed;
    }
    /* What is sent stays as it is now, whatever becomes of the lists meanwhile. */
    for (; held < count; held++) {
        PyObject *piece = PyList_GET_ITEM(arguments[1], held);
        unsigned long long socket = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(arguments[0], held));
        if (socket == (unsigned long long)-1 && PyErr_Occurred()) goto failed;
        if (!PyBytes_CheckExact(piece)) {
            PyErr_SetString(PyExc_TypeError, "what is sent has to be bytes");
            goto failed;
        }
        all[held] = (struct sending){.piece = Py_NewRef(piece), .socket = socket};
    }
    Py_BEGIN_ALLOW_THREADS
    for (struct sending *one = all; one < all + count; one++) one->taken = sent(one);
    Py_END_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < count; at++) {
        if (all[at].taken == PyBytes_GET_SIZE(all[at].piece)) continue;
        PyObject *one = Py_BuildValue("(nn)", at, all[at].taken);
        int appended = one ? PyList_Append(short_of, one) : -1;
        Py_XDECREF(one);
        if (appended < 0) goto failed;
    }
    goto done;
failed:
    Py_CLEAR(short_of);
done:
    while (held > 0) Py_DECREF(all[--held].piece);
    PyMem_Free(all);
    return short_of;
}

static PyMethodDef methods[] = {
    {"handle", handle, METH_O, PyDoc_STR("handle(descriptor, /)\n--\n\nNames a socket; _sockets.pyi says more.")},
    {"send_each", (PyCFunction)(void (*)(void))send_each, METH_FASTCALL,
     PyDoc_STR("send_each(sockets, pieces, /)\n--\n\nSends each piece to its socket; _sockets.pyi says more.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_sockets", .m_doc = "Many sends by one call.", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__sockets(void) { return PyModuleDef_Init(&definition); }
