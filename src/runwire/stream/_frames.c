/* Events as frames of server-sent events, as WireEncoder and event_frame make them, several times faster. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

enum { NUMBER_MAX = 24 };

static char *put(char *at, const char *bytes, Py_ssize_t count) {
    memcpy(at, bytes, (size_t)count);
    return at + count;
}

#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

static char *put_number(char *at, long long number) {
    char digits[NUMBER_MAX], *first = digits + NUMBER_MAX;
    unsigned long long rest = number < 0 ? 0 - (unsigned long long)number : (unsigned long long)number;
    do *--first = (char)('0' + rest % 10);
    while (rest /= 10);
    if (number < 0) *--first = '-';
    return put(at, first, digits + NUMBER_MAX - first);
}

static int number_of(PyObject *value, long long *number) {
    *number = PyLong_AsLongLong(value);
    return *number == -1 && PyErr_Occurred() ? -1 : 0;
}

struct text {
    const char *bytes;
    Py_ssize_t size;
};

/* Names and fns are identifiers by the log's own rule: what is not ASCII is none, and must not reach a stream. */
static int text_of(PyObject *value, struct text *text) {
    *text = (struct text){0};
    if (value == Py_None) return 0;
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "a str is due, not %.200s", Py_TYPE(value)->tp_name);
        return -1;
    }
    if (!PyUnicode_IS_ASCII(value)) {
        PyErr_SetString(PyExc_ValueError, "not ASCII");
        return -1;
    }
    *text = (struct text){(const char *)PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value)};
    return 0;
}

/* Floors, as Python does. */
static long long milliseconds(long long us) { return us / 1000 - (us % 1000 < 0); }

static PyObject *frame_of(PyObject *event, const char *head, Py_ssize_t head_size, const char *tail, Py_ssize_t tail_size) {
    if (!PyTuple_Check(event) || PyTuple_GET_SIZE(event) != 5) {
        PyErr_SetString(PyExc_TypeError, "an event is a tuple of five");
        return NULL;
    }
    long long seq, ts_us;
    struct text type, name, fn;
    if (number_of(PyTuple_GET_ITEM(event, 0), &seq) < 0 || number_of(PyTuple_GET_ITEM(event, 1), &ts_us) < 0 ||
        text_of(PyTuple_GET_ITEM(event, 2), &type) < 0 || text_of(PyTuple_GET_ITEM(event, 3), &name) < 0 ||
        text_of(PyTuple_GET_ITEM(event, 4), &fn) < 0)
        return NULL;
    Py_ssize_t most = head_size + tail_size + type.size + name.size + fn.size + 3 * NUMBER_MAX + 64;
    char small[1024], *bytes = most <= (Py_ssize_t)sizeof small ? small : PyMem_Malloc((size_t)most), *at = bytes;
    if (!bytes) return PyErr_NoMemory();
    at = PUT(at, "id: ");
    at = put_number(at, seq);
    at = PUT(at, "\ndata: ");
    at = put(at, head, head_size);
    at = put_number(at, seq);
    at = PUT(at, ",\"ts\":");
    at = put_number(at, milliseconds(ts_us));
    at = PUT(at, ",\"type\":\"");
    at = put(at, type.bytes, type.size);
    at = put(at, tail, tail_size);
    if (name.bytes) {
        at = PUT(at, ",\"name\":\"");
        at = put(at, name.bytes, name.size);
        at = PUT(at, "\"");
    } else if (fn.bytes) {
        at = PUT(at, ",\"fn\":\"");
        at = put(at, fn.bytes, fn.size);
        at = PUT(at, "\"");
    }
    at = PUT(at, "}\n\n");
    PyObject *frame = PyBytes_FromStringAndSize(bytes, at - bytes);
    if (bytes != small) PyMem_Free(bytes);
    return frame;
}

static PyObject *frames(PyObject *module, PyObject *const *arguments, Py_ssize_t argument_count) {
    (void)module;
    if (argument_count != 3 || !PyBytes_CheckExact(arguments[0]) || !PyBytes_CheckExact(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "frames(head, tail, events) takes bytes, bytes and a sequence");
        return NULL;
    }
    PyObject *events = PySequence_Fast(arguments[2], "events are a sequence");
    if (!events) return NULL;
    PyObject *all = PyList_New(PySequence_Fast_GET_SIZE(events));
    for (Py_ssize_t n = 0; all && n < PyList_GET_SIZE(all); n++) {
        PyObject *frame =
            frame_of(PySequence_Fast_GET_ITEM(events, n), PyBytes_AS_STRING(arguments[0]), PyBytes_GET_SIZE(arguments[0]),
                     PyBytes_AS_STRING(arguments[1]), PyBytes_GET_SIZE(arguments[1]));
        if (frame) PyList_SET_ITEM(all, n, frame);
        else Py_CLEAR(all);
    }
    Py_DECREF(events);
    return all;
}

static PyObject *joined(PyObject *module, PyObject *argument) {
    (void)module;
    PyObject *all = PySequence_Fast(argument, "frames are a sequence");
    if (!all) return NULL;
    Py_ssize_t size = 0, count = PySequence_Fast_GET_SIZE(all);
    for (Py_ssize_t n = 0; n < count; n++) {
        PyObject *frame = PySequence_Fast_GET_ITEM(all, n);
        if (!PyBytes_CheckExact(frame)) {
            PyErr_SetString(PyExc_TypeError, "a frame is bytes");
            Py_DECREF(all);
            return NULL;
        }
        size += PyBytes_GET_SIZE(frame);
    }
    char head[NUMBER_MAX];
    int head_size = snprintf(head, sizeof head, "%zx\r\n", (size_t)size);
    PyObject *chunk = PyBytes_FromStringAndSize(NULL, head_size + size + 2);
    if (chunk) {
        char *at = put(PyBytes_AS_STRING(chunk), head, head_size);
        for (Py_ssize_t n = 0; n < count; n++) {
            PyObject *frame = PySequence_Fast_GET_ITEM(all, n);
            at = put(at, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame));
        }
        PUT(at, "\r\n");
    }
    Py_DECREF(all);
    return chunk;
}

static PyMethodDef methods[] = {
    {"joined", joined, METH_O, PyDoc_STR("joined(frames, /)\n--\n\nThem as one chunk; _frames.pyi says more.")},
    {"frames", (PyCFunction)(void (*)(void))frames, METH_FASTCALL,
     PyDoc_STR("frames(head, tail, events, /)\n--\n\nA frame for each event; _frames.pyi says more.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_frames", .m_doc = "Events as frames.", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__frames(void) { return PyModuleDef_Init(&definition); }
