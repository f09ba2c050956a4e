/* A stand-in for NVIDIA's libnvidia-ml.so.1: the part of its interface that agentwatch uses.
 *
 * What it answers stands in the file that NVML_STATE names, which is read at each call, so that a
 * test can change the machine while it is watched. No file: the driver is not loaded. A line each:
 *
 *   driver VERSION
 *   gpu UUID TOTAL USED SM MEMORY POWER TEMPERATURE ENCODER SENT RECEIVED NAME
 *   mig UUID PARENT INSTANCE TOTAL USED NAME
 *   process UUID PID SM MEMORY ENCODER BYTES
 *   fail FUNCTION CODE [UUID]     (* is every function)
 *   hang FUNCTION
 *
 * A value of -1 is not supported. Layouts and codes: nvml.h of the CUDA toolkit, as pynvml has
 * them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX 64
#define TEXT 96

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
};

typedef unsigned long long u64;

struct device {
    char uuid[TEXT], parent[TEXT], name[TEXT];
    unsigned instance;
    u64 total, used;
    int sm, memory, power, temperature, encoder, sent, received;
};

struct process {
    char uuid[TEXT];
    unsigned pid;
    int sm, memory, encoder;
    u64 bytes;
};

struct memory {
    u64 total, free, used;
};

struct memory_v2 {
    unsigned version;
    u64 total, reserved, free, used;
};

struct utilization {
    unsigned gpu, memory;
};

struct process_info_v1 {
    unsigned pid;
    u64 bytes;
};

struct process_info {
    unsigned pid;
    u64 bytes;
    unsigned gpu_instance, compute_instance;
};

struct process_sample {
    unsigned pid;
    u64 time;
    unsigned sm, memory, encoder, decoder;
};

static struct device devices[MAX];
static struct process processes[MAX];
static int device_count, process_count, initialised;
static char driver[TEXT];

/* A handle is a name that was given out: it outlives the device. */
static char handles[MAX][TEXT];

static int applies(const char *line, const char *function, const char *uuid) {
    char name[TEXT], whom[TEXT] = "";
    int code = 0;
    if (sscanf(line, "hang %95s", name) == 1 && !strcmp(name, function))
        for (;;)
            pause();
    if (sscanf(line, "fail %95s %d %95s", name, &code, whom) < 2)
        return SUCCESS;
    if (strcmp(name, "*") && strcmp(name, function))
        return SUCCESS;
    return !whom[0] || (uuid && !strcmp(whom, uuid)) ? code : SUCCESS;
}

static void take(const char *line) {
    struct device one = {.sm = -1,
                         .memory = -1,
                         .power = -1,
                         .temperature = -1,
                         .encoder = -1,
                         .sent = -1,
                         .received = -1};
    struct process user;
    if (device_count < MAX &&
        (sscanf(line, "gpu %95s %llu %llu %d %d %d %d %d %d %d %95[^\n]", one.uuid, &one.total,
                &one.used, &one.sm, &one.memory, &one.power, &one.temperature, &one.encoder,
                &one.sent, &one.received, one.name) == 11 ||
         sscanf(line, "mig %95s %95s %u %llu %llu %95[^\n]", one.uuid, one.parent, &one.instance,
                &one.total, &one.used, one.name) == 6))
        devices[device_count++] = one;
    else if (process_count < MAX &&
             sscanf(line, "process %95s %u %d %d %d %llu", user.uuid, &user.pid, &user.sm,
                    &user.memory, &user.encoder, &user.bytes) == 6)
        processes[process_count++] = user;
    else
        sscanf(line, "driver %95s", driver);
}

/* Read the state anew; what the function is to answer at once, if anything. */
static int enter(const char *function, const char *uuid) {
    const char *path = getenv("NVML_STATE");
    FILE *file = path ? fopen(path, "re") : NULL;
    char line[512];
    int code = SUCCESS;
    device_count = process_count = 0;
    if (!file)
        return DRIVER_NOT_LOADED;
    while (fgets(line, sizeof line, file)) {
        take(line);
        if (!code)
            code = applies(line, function, uuid);
    }
    fclose(file);
    if (!code && !initialised && strcmp(function, "nvmlInitWithFlags"))
        code = UNINITIALIZED;
    return code;
}

static struct device *find(const char *uuid) {
    for (int i = 0; i < device_count; i++)
        if (!strcmp(devices[i].uuid, uuid))
            return &devices[i];
    return NULL;
}

/* The n-th GPU, or the n-th instance of a GPU. */
static struct device *nth(const char *parent, unsigned index) {
    for (int i = 0; i < device_count; i++)
        if (!strcmp(devices[i].parent, parent) && !index--)
            return &devices[i];
    return NULL;
}

static int give(struct device *one, void **handle) {
    if (!one)
        return NOT_FOUND;
    for (int i = 0; i < MAX; i++) {
        if (!handles[i][0])
            strcpy(handles[i], one->uuid);
        if (!strcmp(handles[i], one->uuid)) {
            *handle = handles[i];
            return SUCCESS;
        }
    }
    return INVALID_ARGUMENT;
}

static int text(const char *from, char *into, unsigned length) {
    if (strlen(from) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(into, from);
    return SUCCESS;
}

static int number(int value, unsigned *into) {
    if (value < 0)
        return NOT_SUPPORTED;
    *into = value;
    return SUCCESS;
}

#define ENTER(uuid)                                                                                \
    int entered = enter(__func__, uuid);                                                           \
    if (entered)                                                                                   \
        return entered;

/* For functions of a device: `one` is what is known of it now. */
#define DEVICE(handle)                                                                             \
    ENTER(handle)                                                                                  \
    struct device *one = find(handle);                                                             \
    if (!one)                                                                                      \
        return GPU_IS_LOST;

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    ENTER(NULL)
    initialised = 1;
    return SUCCESS;
}

int nvmlShutdown(void) {
    initialised = 0;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "stand-in";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    ENTER(NULL)
    return text(driver, version, length);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(NULL)
    *count = 0;
    while (nth("", *count))
        ++*count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    ENTER(nth("", index) ? nth("", index)->uuid : NULL)
    return give(nth("", index), handle);
}

int nvmlDeviceGetUUID(const char *handle, char *uuid, unsigned length) {
    DEVICE(handle)
    return text(one->uuid, uuid, length);
}

int nvmlDeviceGetName(const char *handle, char *name, unsigned length) {
    DEVICE(handle)
    return text(one->name, name, length);
}

int nvmlDeviceGetMigMode(const char *handle, unsigned *current, unsigned *pending) {
    DEVICE(handle)
    *current = *pending = nth(one->uuid, 0) != NULL;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(const char *handle, unsigned *count) {
    DEVICE(handle)
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(const char *handle, unsigned index, void **instance) {
    DEVICE(handle)
    return give(nth(one->uuid, index), instance);
}

int nvmlDeviceGetGpuInstanceId(const char *handle, unsigned *id) {
    DEVICE(handle)
    if (!one->parent[0])
        return NOT_SUPPORTED;
    *id = one->instance;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(const char *handle, struct utilization *rates) {
    DEVICE(handle)
    return number(one->sm, &rates->gpu) ? NOT_SUPPORTED : number(one->memory, &rates->memory);
}

int nvmlDeviceGetMemoryInfo(const char *handle, struct memory *info) {
    DEVICE(handle)
    *info = (struct memory){one->total, one->total - one->used, one->used};
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(const char *handle, struct memory_v2 *info) {
    DEVICE(handle)
    *info = (struct memory_v2){info->version, one->total, 0, one->total - one->used, one->used};
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(const char *handle, unsigned *milliwatts) {
    DEVICE(handle)
    return number(one->power, milliwatts);
}

int nvmlDeviceGetTemperature(const char *handle, unsigned sensor, unsigned *celsius) {
    (void)sensor;
    DEVICE(handle)
    return number(one->temperature, celsius);
}

int nvmlDeviceGetEncoderUtilization(const char *handle, unsigned *percent, unsigned *microseconds) {
    DEVICE(handle)
    *microseconds = 167000;
    return number(one->encoder, percent);
}

int nvmlDeviceGetPcieThroughput(const char *handle, unsigned counter, unsigned *kilobytes) {
    DEVICE(handle)
    return number(counter ? one->received : one->sent, kilobytes);
}

/* The layouts of the versions differ; which processes there are does not. */
static int running(const char *uuid, unsigned *room, void *infos, int version) {
    unsigned count = 0;
    for (int i = 0; i < process_count; i++) {
        struct process *user = &processes[i];
        if (strcmp(user->uuid, uuid))
            continue;
        if (infos && count < *room && version == 1)
            ((struct process_info_v1 *)infos)[count] =
                (struct process_info_v1){user->pid, user->bytes};
        else if (infos && count < *room)
            ((struct process_info *)infos)[count] =
                (struct process_info){user->pid, user->bytes, -1, -1};
        count++;
    }
    int fits = count <= *room;
    *room = count;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlDeviceGetComputeRunningProcesses(const char *handle, unsigned *count, void *infos) {
    DEVICE(handle)
    return running(one->uuid, count, infos, 1);
}

int nvmlDeviceGetComputeRunningProcesses_v2(const char *handle, unsigned *count, void *infos) {
    DEVICE(handle)
    return running(one->uuid, count, infos, 2);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(const char *handle, unsigned *count, void *infos) {
    DEVICE(handle)
    return running(one->uuid, count, infos, 3);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(const char *handle, unsigned *count, void *infos) {
    (void)infos;
    DEVICE(handle)
    *count = 0;
    return SUCCESS;
}
#endif

int nvmlDeviceGetGraphicsRunningProcesses_v2(const char *handle, unsigned *count, void *infos) {
    (void)infos;
    DEVICE(handle)
    *count = 0;
    return SUCCESS;
}

int nvmlDeviceGetProcessUtilization(const char *handle, struct process_sample *samples,
                                    unsigned *room, u64 since) {
    DEVICE(handle)
    unsigned count = 0;
    if (one->sm < 0)
        return NOT_SUPPORTED;
    for (int i = 0; i < process_count; i++) {
        struct process *user = &processes[i];
        if (strcmp(user->uuid, one->uuid) || user->sm <= 0)
            continue;
        if (samples && count < *room)
            samples[count] = (struct process_sample){user->pid,    since + 1000000, user->sm,
                                                     user->memory, user->encoder,   0};
        count++;
    }
    int fits = samples && count <= *room;
    *room = count;
    if (!count)
        return NOT_FOUND;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}
