// A libcudnn.so.9 that is there and serves nobody.
#include <cudnn.h>

extern "C" {
size_t cudnnGetVersion() { return 91900; }
cudnnStatus_t cudnnCreate(cudnnHandle_t*) { return CUDNN_STATUS_NOT_INITIALIZED; }
}
