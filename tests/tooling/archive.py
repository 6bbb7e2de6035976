# SPDX-License-Identifier: GPL-2.0-or-later
"""A small archive for apt on this machine, for tests of scripts/fetch"""
import hashlib
import io
import os
import random
import tarfile


def digest(path, name='sha256'):
    with open(path, 'rb') as f:
        return hashlib.new(name, f.read()).hexdigest()


class Archive:
    """Suites that hold nothing but a source package called qemu"""

    def __init__(self, path):
        self.path = path
        self.url = 'copy:' + path

    def file(self, name, data):
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as f:
            f.write(data)
        return path

    def tarball(self, version):
        return os.path.join(self.path, 'pool',
                            'qemu_%s+ds.orig.tar.xz' % version)

    def make_tarball(self, version, files=0):
        """A QEMU with so many files more, of noise"""
        os.makedirs(os.path.join(self.path, 'pool'), exist_ok=True)
        noise = random.Random(version)
        names = {'VERSION': version.encode() + b'\n',
                 'configure': b'#!/bin/sh\n'}
        for i in range(files):
            names['noise/%d/%d' % (i % 50, i)] = noise.randbytes(6000)
        with tarfile.open(self.tarball(version), 'w:xz', preset=0) as tar:
            for name, data in names.items():
                info = tarfile.TarInfo('qemu-%s/%s' % (version, name))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    def suite(self, name, version=None, files=0):
        """Add a suite with that QEMU, or with none"""
        sources = ''
        if version:
            self.make_tarball(version, files)
            dsc = self.file('pool/qemu_%s+ds-1.dsc' % version, b'x\n')
            sources = ('Package: qemu\nBinary: qemu-system-x86\n'
                       'Version: 1:%s+ds-1\nArchitecture: any\n'
                       'Format: 3.0 (quilt)\nMaintainer: T <t@example.org>\n'
                       'Directory: pool\n' % version)
            for field, algorithm in (('Files', 'md5'),
                                     ('Checksums-Sha256', 'sha256')):
                sources += field + ':\n'
                for path in (dsc, self.tarball(version)):
                    sources += ' %s %d %s\n' % (
                        digest(path, algorithm), os.path.getsize(path),
                        os.path.basename(path))
        release = ('Suite: %s\nCodename: %s\nComponents: main\n'
                   'Architectures: amd64\n'
                   'Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n'
                   % (name, name))
        for index, text in (('main/source/Sources', sources),
                            ('main/binary-amd64/Packages', '')):
            path = self.file('dists/%s/%s' % (name, index), text.encode())
            release += ' %s %d %s\n' % (digest(path), os.path.getsize(path),
                                        index)
        self.file('dists/%s/Release' % name, release.encode())
