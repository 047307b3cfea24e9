/* Events as frames of server-sent events: the same bytes as WireEncoder and event_frame make, several times faster. */
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

/* Names and fns are ASCII identifiers: the log takes no others, and no others may reach a stream. */
static int text_of(PyObject *value, struct text *text) {
    *text = (struct text){0};
    if (value == Py_None) return 0;
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "expected str, not %.200s", Py_TYPE(value)->tp_name);
        return -1;
    }
    if (!PyUnicode_IS_ASCII(value)) {
        PyErr_SetString(PyExc_ValueError, "not ASCII");
        return -1;
    }
    *text = (struct text){(const char *)PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value)};
    return 0;
}

/* Rounds down, as Python does. */
static long long milliseconds(long long us) { return us / 1000 - (us % 1000 < 0); }

struct event {
    long long seq, ts_us;
    struct text type, name, fn;
};

static int event_of(PyObject *value, struct event *event) {
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) != 5) {
        PyErr_SetString(PyExc_TypeError, "an event is a tuple of 5");
        return -1;
    }
    return number_of(PyTuple_GET_ITEM(value, 0), &event->seq) < 0 || number_of(PyTuple_GET_ITEM(value, 1), &event->ts_us) < 0 ||
                   text_of(PyTuple_GET_ITEM(value, 2), &event->type) < 0 ||
                   text_of(PyTuple_GET_ITEM(value, 3), &event->name) < 0 || text_of(PyTuple_GET_ITEM(value, 4), &event->fn) < 0
               ? -1
               : 0;
}

/* An upper bound on the size of a frame; `same` bytes are common to all frames of a run. */
static Py_ssize_t room_for(const struct event *event, Py_ssize_t same) {
    return same + event->type.size + event->name.size + event->fn.size + 3 * NUMBER_MAX + 64;
}

static char *put_frame(char *at, const struct event *event, const struct text *head, const struct text *tail) {
    at = PUT(at, "id: ");
    at = put_number(at, event->seq);
    at = PUT(at, "\ndata: ");
    at = put(at, head->bytes, head->size);
    at = put_number(at, event->seq);
    at = PUT(at, ",\"ts\":");
    at = put_number(at, milliseconds(event->ts_us));
    at = PUT(at, ",\"type\":\"");
    at = put(at, event->type.bytes, event->type.size);
    at = put(at, tail->bytes, tail->size);
    if (event->name.bytes) {
        at = PUT(at, ",\"name\":\"");
        at = put(at, event->name.bytes, event->name.size);
        at = PUT(at, "\"");
    } else if (event->fn.bytes) {
        at = PUT(at, ",\"fn\":\"");
        at = put(at, event->fn.bytes, event->fn.size);
        at = PUT(at, "\"");
    }
    return PUT(at, "}\n\n");
}

static PyObject *frames(PyObject *module, PyObject *const *arguments, Py_ssize_t argument_count) {
    (void)module;
    if (argument_count != 3 || !PyBytes_CheckExact(arguments[0]) || !PyBytes_CheckExact(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "frames(head, tail, events) takes bytes, bytes and a sequence");
        return NULL;
    }
    struct text head = {PyBytes_AS_STRING(arguments[0]), PyBytes_GET_SIZE(arguments[0])};
    struct text tail = {PyBytes_AS_STRING(arguments[1]), PyBytes_GET_SIZE(arguments[1])};
    PyObject *events = PySequence_Fast(arguments[2], "events are a sequence"), *all = NULL;
    if (!events) return NULL;
    /* Frames are made in a buffer and copied at the end: shrinking a bytes object would fragment memory. */
    char few[8192], *bytes = few, *at = few;
    size_t room = sizeof few;
    struct event event;
    for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(events); n++) {
        if (event_of(PySequence_Fast_GET_ITEM(events, n), &event) < 0) goto done;
        size_t used = (size_t)(at - bytes), most = used + (size_t)room_for(&event, head.size + tail.size);
        if (most > room) {
            room = most > 2 * room ? most : 2 * room;
            char *more = PyMem_Realloc(bytes == few ? NULL : bytes, room);
            if (!more) {
                PyErr_NoMemory();
                goto done;
            }
            if (bytes == few) memcpy(more, few, used);
            bytes = more;
            at = more + used;
        }
        at = put_frame(at, &event, &head, &tail);
    }
    all = PyBytes_FromStringAndSize(bytes, at - bytes);
done:
    if (bytes != few) PyMem_Free(bytes);
    Py_DECREF(events);
    return all;
}

static PyObject *joined(PyObject *module, PyObject *argument) {
    (void)module;
    PyObject *all = PySequence_Fast(argument, "pieces are a sequence");
    if (!all) return NULL;
    Py_ssize_t size = 0, count = PySequence_Fast_GET_SIZE(all);
    for (Py_ssize_t n = 0; n < count; n++) {
        PyObject *piece = PySequence_Fast_GET_ITEM(all, n);
        if (!PyBytes_CheckExact(piece)) {
            PyErr_SetString(PyExc_TypeError, "a piece is bytes");
            Py_DECREF(all);
            return NULL;
        }
        size += PyBytes_GET_SIZE(piece);
    }
    char head[NUMBER_MAX];
    int head_size = snprintf(head, sizeof head, "%zx\r\n", (size_t)size);
    PyObject *chunk = PyBytes_FromStringAndSize(NULL, head_size + size + 2);
    if (chunk) {
        char *at = put(PyBytes_AS_STRING(chunk), head, head_size);
        for (Py_ssize_t n = 0; n < count; n++) {
            PyObject *piece = PySequence_Fast_GET_ITEM(all, n);
            at = put(at, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece));
        }
        PUT(at, "\r\n");
    }
    Py_DECREF(all);
    return chunk;
}

static PyMethodDef methods[] = {
    {"joined", joined, METH_O, PyDoc_STR("joined(pieces, /)\n--\n\nThe pieces as one chunk; _frames.pyi says more.")},
    {"frames", (PyCFunction)(void (*)(void))frames, METH_FASTCALL,
     PyDoc_STR("frames(head, tail, events, /)\n--\n\nThe events as frames; _frames.pyi says more.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_frames", .m_doc = "Events as frames.", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__frames(void) { return PyModuleDef_Init(&definition); }
