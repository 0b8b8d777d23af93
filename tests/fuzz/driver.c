// libFuzzer's entry points around the harness modules, which are Cython.
//
// Python is embedded for the modules' sake; the functions that are called here are C, and hold the GIL. libFuzzer
// has the command line, and starts itself again by it where it merges corpora; so what is for us is in the
// environment: FUZZ_MODULE, and FUZZ_FUNCTION in it; FUZZ_PYTHON, whose packages are used; FUZZ_PATH, where modules
// are imported from ahead of those, separated by ':'.

#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int (*Target)(const uint8_t *data, size_t size);

static Target target;

static void fail(const char *what) {
    fprintf(stderr, "driver: %s\n", what);
    if (PyErr_Occurred()) PyErr_Print();
    exit(2);
}

static void start_python(const char *program) {
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;  // libFuzzer has its own
    config.parse_argv = 0;
    PyConfig_SetBytesString(&config, &config.program_name, program);
    PyStatus status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) fail("Python does not start");
}

static void prepend_paths(const char *paths) {
    PyObject *sys_path = PySys_GetObject("path");
    char *copy = strdup(paths), *rest = copy, *path;
    for (Py_ssize_t at = 0; (path = strsep(&rest, ":")) != NULL; at++) {
        PyObject *item = PyUnicode_DecodeFSDefault(path);
        if (item == NULL || PyList_Insert(sys_path, at, item) != 0) fail(path);
        Py_DECREF(item);
    }
    free(copy);
}

static Target find(const char *module_name, const char *function) {
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *address = module ? PyObject_CallMethod(module, "address_of", "s", function) : NULL;
    if (address == NULL) fail(module_name);
    size_t value = PyLong_AsSize_t(address);
    Py_DECREF(address);
    return (Target)value;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *paths = getenv("FUZZ_PATH"), *python = getenv("FUZZ_PYTHON");
    const char *module = getenv("FUZZ_MODULE"), *function = getenv("FUZZ_FUNCTION");
    if (paths == NULL || python == NULL || module == NULL || function == NULL) fail("no FUZZ_... in the environment");
    start_python(python);
    prepend_paths(paths);
    target = find(module, function);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return target(data, size); }
