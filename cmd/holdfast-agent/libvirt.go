// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen && cgo

package main

import (
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/libvirt"
)

func init() {
	hypervisors["libvirt"] = func(uri string, pools []dirs.Dir) (hypervisor.Hypervisor, error) {
		return libvirt.New(libvirt.Config{URI: uri, Dirs: pools})
	}
}
