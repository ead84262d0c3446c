// The same as notify.c, in Go: a runtime with threads, that signals itself all the time, and its own system calls.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"
)

const (
	notificationPipe = 0x80
	setSize          = 0x5760
	setFilter        = 0x5761
	fionread         = 0x541b

	join, update, clear, unlink, watchKey = 1, 2, 7, 9, 32

	records = 5
)

var addKeyNumber, keyctlNumber, ioctlNumber = numbers()

func numbers() (uintptr, uintptr, uintptr) {
	if runtime.GOARCH == "arm64" {
		return 217, 219, 29
	}
	return 248, 250, 16
}

func need(failed syscall.Errno, what string) {
	if failed != 0 {
		fmt.Fprintf(os.Stderr, "notify: %s: %s\n", what, failed)
		os.Exit(1)
	}
}

func keyctl(operation, a, b, c uintptr) uintptr {
	value, _, failed := syscall.Syscall6(keyctlNumber, operation, a, b, c, 0, 0)
	need(failed, fmt.Sprintf("keyctl %d", operation))
	return value
}

func addKey(description, payload string) uintptr {
	kind, _ := syscall.BytePtrFromString("user")
	name, _ := syscall.BytePtrFromString(description)
	data := []byte(payload)
	value, _, failed := syscall.Syscall6(addKeyNumber, uintptr(unsafe.Pointer(kind)), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), ^uintptr(2), 0)
	need(failed, "add_key")
	return value
}

// change is what the child does: it is this program again, for a Go program cannot fork alone.
func change(key uintptr) {
	data := []byte("two")
	keyctl(update, key, uintptr(unsafe.Pointer(&data[0])), 3)
	addKey("second", "x")
	keyctl(unlink, key, ^uintptr(2), 0)
	keyctl(clear, ^uintptr(2), 0, 0)
}

func main() {
	// Session keyrings belong to threads in the kernel: stay on one.
	runtime.LockOSThread()
	if len(os.Args) > 1 {
		var key uintptr
		fmt.Sscan(os.Args[1], &key)
		change(key)
		return
	}
	session := keyctl(join, 0, 0, 0)
	key := addKey("first", "one")
	names := map[uint32]string{0: "none", uint32(session): "session", uint32(key): "key"}

	var ends [2]int
	if err := syscall.Pipe2(ends[:], notificationPipe|syscall.O_NONBLOCK|syscall.O_CLOEXEC); err != nil {
		need(err.(syscall.Errno), "pipe2")
	}
	_, _, failed := syscall.Syscall(ioctlNumber, uintptr(ends[0]), setSize, 64)
	need(failed, "set size")
	filter := []uint32{2, 0, 1, 0, 0, ^uint32(0), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ^uint32(0), 0, 0, 0, 0, 0, 0, 0}
	_, _, failed = syscall.Syscall(ioctlNumber, uintptr(ends[0]), setFilter, uintptr(unsafe.Pointer(&filter[0])))
	need(failed, "set filter")
	keyctl(watchKey, session, uintptr(ends[0]), 1)
	keyctl(watchKey, key, uintptr(ends[0]), 2)

	child := exec.Command(os.Args[0], fmt.Sprint(key))
	child.Stderr = os.Stderr
	if err := child.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "notify: child:", err)
		os.Exit(1)
	}
	buffer := make([]byte, 433)
	for seen := 0; seen < records; {
		var queued int32
		_, _, failed = syscall.Syscall(ioctlNumber, uintptr(ends[0]), fionread, uintptr(unsafe.Pointer(&queued)))
		need(failed, "FIONREAD")
		if queued < 8 {
			runtime.Gosched()
			continue
		}
		size, err := syscall.Read(ends[0], buffer)
		if err != nil {
			need(err.(syscall.Errno), "read")
		}
		for rest := buffer[:size]; len(rest) > 0; seen++ {
			word, info := binary.LittleEndian.Uint32(rest), binary.LittleEndian.Uint32(rest[4:])
			fmt.Printf("type %d subtype %d id %d", word&0xffffff, word>>24, info>>8&0xff)
			if info&0x7f == 16 {
				fmt.Print(" ", name(names, binary.LittleEndian.Uint32(rest[8:])))
				if word&0xffffff == 1 {
					fmt.Print(" ", name(names, binary.LittleEndian.Uint32(rest[12:])))
				}
			}
			fmt.Println()
			rest = rest[info&0x7f:]
		}
	}
	syscall.Close(ends[1])
	size, err := syscall.Read(ends[0], buffer)
	if size != 0 || err != nil {
		fmt.Fprintln(os.Stderr, "notify: no end of file:", size, err)
		os.Exit(1)
	}
	fmt.Println("end")
}

func name(names map[uint32]string, serial uint32) string {
	if known, there := names[serial]; there {
		return known
	}
	return "another"
}
