/* Word-wise access to memory that another process may be writing or reading.
 *
 * The argument for why these orders suffice stands in versions.c. ThreadSanitizer does not model
 * fences, so its build turns the fenced protocol into acquire loads and release stores.
 */
#ifndef PSA_ATOMICS_H
#define PSA_ATOMICS_H

#include <stdint.h>

#if defined(__SANITIZE_THREAD__)
#define PSA_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PSA_TSAN 1
#endif
#endif

#ifdef PSA_TSAN
#define PSA_LOAD_ORDER __ATOMIC_ACQUIRE
#define PSA_STORE_ORDER __ATOMIC_RELEASE
#define PSA_FENCE_ACQUIRE() ((void)0)
#define PSA_FENCE_RELEASE() ((void)0)
#else
#define PSA_LOAD_ORDER __ATOMIC_RELAXED
#define PSA_STORE_ORDER __ATOMIC_RELAXED
#define PSA_FENCE_ACQUIRE() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define PSA_FENCE_RELEASE() __atomic_thread_fence(__ATOMIC_RELEASE)
#endif

#define PSA_LOAD(pointer) __atomic_load_n((pointer), PSA_LOAD_ORDER)
#define PSA_STORE(pointer, value) __atomic_store_n((pointer), (value), PSA_STORE_ORDER)
#define PSA_LOAD_ACQUIRE(pointer) __atomic_load_n((pointer), __ATOMIC_ACQUIRE)
#define PSA_STORE_RELEASE(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)

#define PSA_NO_SLOT UINT32_C(0xffffffff)

#endif
