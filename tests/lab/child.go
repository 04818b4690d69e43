// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// childEnv makes a process a part of the lab.
const childEnv = "HOLDFAST_LAB_CHILD"

// part is what a child is to be.
type part struct {
	Role         string // share, host, init
	Dir          string // of the host
	Name         string
	Space, Group string
}

// Child is called first of all by every binary that starts a lab. In a child it plays
// its part and ends the process; elsewhere it returns.
func Child() {
	text := os.Getenv(childEnv)
	if text == "" {
		return
	}
	var p part
	err := json.Unmarshal([]byte(text), &p)
	if err == nil {
		switch p.Role {
		case "share":
			err = serveShare(filepath.Join(Dir, "export"), filepath.Join(p.Dir, "shared"), filepath.Join(p.Dir, "fault"))
		case "host":
			err = p.enter()
		case "init":
			err = p.init()
		default:
			err = fmt.Errorf("role %q is unknown", p.Role)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// enter becomes the host's first process. It joins the host's group first: ip netns
// hides it.
func (p part) enter() error {
	if err := write(filepath.Join(p.Group, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.Role = "init"
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return syscall.Exec(ip, []string{"ip", "netns", "exec", p.Space, "unshare", "-muip", "--fork", "--kill-child", "--mount-proc", self},
		[]string{"PATH=" + os.Getenv("PATH"), childEnv + "=" + string(text)})
}

// init is process 1 of the host: it makes the host's own view of the file system, keeps
// libvirtd running, and reaps.
func (p part) init() error {
	if err := errors.Join(unix.Sethostname([]byte(p.Name)), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
		return fmt.Errorf("separate from the machine: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for from, to := range map[string]string{"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt", "log": "/var/log/libvirt"} {
		if err := unix.Mount(filepath.Join(p.Dir, from), to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", to, err)
		}
	}
	// Every boot of the host has an id of its own, where Linux has it.
	boot := filepath.Join(p.Dir, "boot_id")
	if err := errors.Join(write(boot, uuid.NewString()+"\n"), unix.Mount(boot, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")); err != nil {
		return fmt.Errorf("name this boot: %w", err)
	}
	if err := errors.Join(os.Unsetenv(childEnv), os.MkdirAll("/run/libvirt", 0o755), os.MkdirAll("/var/log/libvirt/qemu", 0o755)); err != nil {
		return err
	}
	if err := p.onBoot(); err != nil {
		return err
	}
	for {
		daemon, err := os.StartProcess("/usr/sbin/libvirtd", []string{"libvirtd", "--listen"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}, Env: os.Environ()})
		if err != nil {
			return fmt.Errorf("start libvirtd: %w", err)
		}
		for {
			pid, err := unix.Wait4(-1, nil, 0, nil)
			if pid == daemon.Pid {
				break
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("reap: %w", err)
			}
		}
		<-time.After(200 * time.Millisecond) // it comes back, as under any supervisor
	}
}

// onBoot starts the host's own script; process 1 reaps it.
func (p part) onBoot() error {
	script := filepath.Join(p.Dir, "rc.local")
	if _, err := os.Stat(script); err != nil {
		return nil // there is none
	}
	log, err := os.OpenFile(filepath.Join(p.Dir, "boot.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("run %s: %w", script, err)
	}
	defer log.Close()
	if _, err := os.StartProcess("/bin/sh", []string{"sh", script}, &os.ProcAttr{Files: []*os.File{nil, log, log}, Env: os.Environ()}); err != nil {
		return fmt.Errorf("run %s: %w", script, err)
	}
	return nil
}
